"""A run that takes long tells how far it is; one that does not, tells nothing and asks for nothing."""

import threading

import psycopg
from standby import until

from godwit.contract.progress import RunProgress


def reports(project):
    return [RunProgress.model_validate(f["progress"]) for e, f in project.log.events if e == "progress"]


def test_a_long_run_tells_migration_statement_and_phase_of_its_index(project):
    project.write("001_a", "CREATE TABLE a (id int);")
    project.write("002_index", "ANALYZE a;\nCREATE INDEX CONCURRENTLY a_id ON a (id);")
    project.deploy("u1", plan=project.plan("001_a"))
    plan = project.plan()
    with psycopg.connect(project.uri) as old:
        # The index waits for whoever may still write without it.
        old.execute("LOCK TABLE a IN ROW EXCLUSIVE MODE")
        step = threading.Thread(target=project.apply, args=("u2",), kwargs={"plan": plan})
        step.start()
        until(lambda: reports(project))
        old.rollback()
        step.join(30)
    told = reports(project)[0]
    assert (told.migration, told.number, told.total) == ("002_index", 1, 1)
    assert (told.statement, told.statements) == (2, 2)
    assert told.phase == "waiting for writers before build"
    assert told.percent == 0
    assert project.rows() == ["001_a", "002_index"]


def test_a_short_run_opens_no_session_for_it(project):
    project.write("001_a", "CREATE TABLE a (id int);")
    project.deploy()
    assert reports(project) == []
