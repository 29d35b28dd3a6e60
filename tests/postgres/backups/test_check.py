"""Check on a real server: what it sees, and what it warns of."""

import pytest

from godwit.contract.outcome import Rung
from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.contract.request import CheckInput
from godwit.engine import journal, ownership
from godwit.engine.check import check_verb
from godwit.engine.errors import StepFailed


def test_it_tells_which_database_this_is_and_changes_nothing(database, place):
    before = database.dump(without=())
    outcome = check_verb(place.context(), CheckInput())
    oid, version = database.psql(
        "SELECT oid, current_setting('server_version_num') FROM pg_database "
        "WHERE datname = current_database()"
    ).split("|")
    assert (outcome.identity.database_oid, outcome.server_version) == (int(oid), int(version))
    assert outcome.identity.name == database.name
    assert outcome.size_bytes > 1_000_000
    assert (outcome.stamp, outcome.journal_head, outcome.replicas, outcome.warnings) == (None, 0, 0, ())
    assert [o.rung for o in outcome.rollback_options] == list(Rung)
    assert all(o.possible for o in outcome.rollback_options)
    assert database.dump(without=()) == before


@pytest.mark.parametrize(
    ("prepared", "why"),
    [
        ("CREATE TABLE t (id int); ALTER TABLE t OWNER TO {app}; GRANT ALL ON t TO {owner}", "act as app"),
        ("CREATE TYPE mood AS ENUM ('a')", "act as postgres"),
        ("ALTER ROLE {app} IN DATABASE {database} SET work_mem = '5MB'", "work_mem of role app"),
        ("ALTER DATABASE {database} SET log_statement = 'ddl'", "again (log_statement)"),
        ("ALTER DATABASE {database} SET app.x = 'y'", "again (app.x)"),
        ("UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'plpgsql'", "plpgsql 0.9"),
    ],
)
def test_a_restore_that_would_fail_at_its_end_is_not_promised(database, role, make_restoring, prepared, why):
    names = {"app": role("app"), "owner": role("owner", createdb=True, owns=True), "database": database.name}
    database.psql(prepared.format(**names))
    made = make_restoring(user=names["owner"])
    told = {o.rung: o for o in check_verb(made.context("check"), CheckInput()).rollback_options}
    assert not told[Rung.RESTORE].possible
    assert why in told[Rung.RESTORE].why
    assert made.failing().reason is Reason.RESTORE_NOT_POSSIBLE


def test_others_objects_in_the_public_schema_come_back_where_everybody_may_create_there(
    database, role, make_restoring
):
    """As in a new database before PostgreSQL 15."""
    app, owner = role("app"), role("owner", createdb=True, owns=True)
    database.psql(
        f"""GRANT {app} TO {owner}; GRANT CREATE ON SCHEMA public TO {app};
        SET ROLE {app}; CREATE TABLE t (id int)"""
    )
    made = make_restoring(user=owner)
    with made.context().session() as session:
        old = session.server_version < 150_000
    told = {o.rung: o for o in check_verb(made.context("check"), CheckInput()).rollback_options}
    assert told[Rung.RESTORE].possible is old
    if old:
        made.restore()
        assert database.psql("SELECT tableowner FROM pg_tables WHERE tablename = 't'") == app
    else:
        assert "public of pg_database_owner" in told[Rung.RESTORE].why
        assert made.failing().reason is Reason.RESTORE_NOT_POSSIBLE


def test_a_restore_that_a_plain_owner_can_do_is_promised(database, role, make_restoring):
    app, owner = role("app"), role("owner", createdb=True, owns=True)
    database.psql(
        f"""GRANT {app} TO {owner}; CREATE SCHEMA shop AUTHORIZATION {app};
        SET ROLE {app}; CREATE TABLE shop.t (id serial); CREATE TYPE shop.mood AS ENUM ('a');
        CREATE FUNCTION shop.f() RETURNS int LANGUAGE sql RETURN 1; CREATE TEMP TABLE mine (id int);
        SET ROLE {owner}; CREATE TABLE t (id serial); CREATE TABLE shop.u (id serial); RESET ROLE;
        ALTER DATABASE {database.name} SET work_mem = '5MB';
        ALTER ROLE {owner} IN DATABASE {database.name} SET work_mem = '6MB'"""
    )
    made = make_restoring(user=owner)
    told = {o.rung: o for o in check_verb(made.context("check"), CheckInput()).rollback_options}
    assert told[Rung.RESTORE].why == ""
    assert made.restore().lost_rows == 0


def test_it_tells_the_stamp_and_the_journals_last_row(place):
    ctx = place.context()
    with ctx.session(writing=True) as session:
        journal.ensure(session)
        ownership.write_stamp(session, Environment.STAGING)
        journal.append(session, ctx.request, journal.Event.DONE, verb="Apply")
    outcome = check_verb(ctx, CheckInput())
    assert (outcome.stamp, outcome.journal_head) == (Environment.STAGING, 1)


def test_a_journal_that_came_with_a_copy_is_a_warning_and_no_stamp(database, place):
    ctx = place.context()
    with ctx.session(writing=True) as session:
        journal.ensure(session)
        ownership.write_stamp(session, Environment.PRODUCTION)
    database.psql("""UPDATE godwit.settings SET value = jsonb_set(value, '{identity}', '"1/2"')""")
    outcome = check_verb(ctx, CheckInput())
    assert outcome.stamp is None
    assert "Production" in outcome.warnings[0]


def test_a_role_that_may_not_keep_a_journal_gets_the_grant_to_run(make_place, role):
    with pytest.raises(StepFailed) as failed:
        check_verb(make_place(user=role("plain")).context(), CheckInput())
    assert failed.value.failure.reason is Reason.JOURNAL_FORBIDDEN
    assert "GRANT CREATE ON DATABASE" in failed.value.failure.message


def test_a_store_that_is_there_is_no_matter(place):
    assert check_verb(place.context(), CheckInput(store=True)).warnings == ()


def test_a_store_that_is_missing_is_said_beside_what_was_seen_and_only_where_asked(place):
    (place.tmp_path / "store").rmdir()
    assert check_verb(place.context(), CheckInput()).warnings == ()
    with pytest.raises(StepFailed) as failed:
        check_verb(place.context(), CheckInput(store=True))
    assert failed.value.failure.reason is Reason.STORE_UNAVAILABLE
    assert failed.value.outcome is not None
    assert failed.value.outcome.verb == "Check"


def test_a_subscription_closes_the_way_of_a_restore(database, place):
    database.psql(
        "CREATE SUBSCRIPTION feed CONNECTION 'host=nowhere' PUBLICATION p "
        "WITH (connect = false, slot_name = NONE)"
    )
    try:
        restore = check_verb(place.context(), CheckInput()).rollback_options[-1]
        assert not restore.possible
        assert "feed" in restore.why
    finally:
        database.psql("DROP SUBSCRIPTION feed")
