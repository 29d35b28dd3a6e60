"""Backups and restores of databases with the histories of several tools, their format to be found out."""

import pytest
from layouts import GOLANG_MIGRATE, GOOSE
from project import Project

from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.contract.request import BackupInput, Format, VerifyInput
from godwit.engine.dump import backup_verb
from godwit.engine.errors import StepFailed
from godwit.engine.verify import verify_verb


@pytest.fixture
def goose(database, tmp_path):
    """A team that has come from golang-migrate: its table is still there, goose's is not yet."""

    def team(layout):
        folder = tmp_path / layout.format
        folder.mkdir()
        layout.write(folder, 1, "CREATE TABLE a (id int);", "DROP TABLE a;")
        return Project(database, folder, database.uri, format=layout.format)

    team(GOLANG_MIGRATE).deploy("u1")
    return team(GOOSE)


def test_a_backup_is_of_the_history_that_was_planned(goose, make_place):
    place = make_place(format=Format.AUTO)
    planned = goose.planned(policy=goose.policy(baseline="1"))
    first = BackupInput(location="a.dump", from_state=planned.from_state)
    assert backup_verb(place.context(), first).state == planned.from_state
    goose.deploy("u2", policy=goose.policy(baseline="1"))
    state = goose.planned().from_state
    made = backup_verb(place.context(), BackupInput(location="b.dump", from_state=state))
    assert made.state == state
    with pytest.raises(StepFailed) as raised:
        backup_verb(place.context(), BackupInput(location="c.dump", from_state=state[::-1]))
    assert raised.value.failure.reason is Reason.STATE_MOVED


def test_a_runs_backup_is_restored_by_a_person_who_names_no_format(goose, make_restoring):
    goose.deploy("u2", policy=goose.policy(baseline="1"))
    made = make_restoring(environment=Environment.DEVELOPMENT, format=Format.GOOSE)
    GOOSE.write(goose.folder, 2, "CREATE TABLE b (id int);", "DROP TABLE b;")
    goose.deploy("u3")

    made.restore(request={"format": Format.AUTO}, accept_data_loss=True)
    assert goose.planned().pending_names == ("2",)
    verify = VerifyInput(state=made.backup.state)
    with made.context().session() as session:
        identity = session.identity
    assert verify_verb(made.context("restore", format=Format.AUTO, identity=identity), verify).current == "1"
