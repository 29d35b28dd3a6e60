"""What taking back would lose where a plain look at the rows does not tell."""

import pytest

from godwit.contract.reasons import Reason
from godwit.contract.request import RevertScope
from godwit.engine import loss
from godwit.engine.errors import StepFailed


def fails_at_the_end(project):
    """A run whose last migration fails; returns its plan."""
    project.write("009_bad", "SELECT 1/0;")
    ref = project.plan()
    with pytest.raises(StepFailed):
        project.apply("u9", plan=ref)
    return ref


def refused(project, ref):
    """The failure to take back, which changed nothing."""
    before = project.database.dump()
    with pytest.raises(StepFailed) as failed:
        project.revert("u9", RevertScope.OPERATION, ref)
    assert project.database.dump() == before
    assert failed.value.failure.reason is Reason.DATA_WOULD_BE_LOST
    return failed.value.failure.message


@pytest.fixture
def secured(project, database, role):
    """A run of a plain owner that failed after it had made a table whose rows it cannot see itself."""
    owner, app = role("owner", owns=True), role("app")
    project.uri = database.uri_as(owner)
    project.write(
        "001_note",
        f"CREATE TABLE note (owner text); GRANT ALL ON note TO {app};"
        "ALTER TABLE note ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON note USING (owner = current_user);",
        "DROP TABLE note;",
    )
    return app, fails_at_the_end(project)


def test_rows_that_row_security_hides_from_the_role_are_not_lost(project, database, secured):
    app, ref = secured
    database.psql(f"SET ROLE {app}; INSERT INTO note VALUES ('{app}')")
    assert "rows of public.note that row security hides from the role" in refused(project, ref)
    assert database.psql("SELECT count(*) FROM note") == "1"


def test_a_table_with_row_security_and_without_rows_is_taken_back(project, secured):
    assert project.revert("u9", RevertScope.OPERATION, secured[1]).reverted == 1


@pytest.mark.parametrize(
    ("column", "default", "written"),
    [
        ("json", "'{}'", """'{"a": 1}'"""),
        ("point", "'(0,0)'", "'(1,1)'"),
        ("box", "'(0,0),(1,1)'", "'(4,4),(5,5)'"),
        ("jsonb", "NULL::jsonb", "'{}'"),
        ("numeric(10,2)", "0", "1"),
        ("character(5)", "'a'", "'b'"),
        ("varchar(5)[]", "'{a}'", "'{b}'"),
        ("timestamptz(0)", "'2020-01-01 00:00:00.7+00'", "'2021-01-01 00:00:00+00'"),
    ],
)
def test_a_value_is_told_from_the_default_whatever_its_type(project, database, column, default, written):
    project.write("001_base", "CREATE TABLE base (id int); INSERT INTO base VALUES (1), (2);")
    project.deploy("u1")
    add = f"ALTER TABLE base ADD extra {column} DEFAULT {default};"
    project.write("002_extra", add, "ALTER TABLE base DROP extra;")
    ref = fails_at_the_end(project)
    database.psql(f"INSERT INTO base VALUES (3); UPDATE base SET extra = {written} WHERE id = 2")
    assert "1 values of public.base.extra" in refused(project, ref)
    database.psql("UPDATE base SET extra = DEFAULT WHERE id = 2")
    assert project.revert("u9", RevertScope.OPERATION, ref).reverted == 1


def test_a_table_of_any_name_is_counted(project, database):
    project.write("001_odd", 'CREATE TABLE "50% %s" (id int);', 'DROP TABLE "50% %s";')
    ref = fails_at_the_end(project)
    database.psql('INSERT INTO "50% %s" VALUES (3)')
    assert "1 rows of public.50% %s" in refused(project, ref)


def test_where_the_server_counts_no_changes_nothing_is_said_to_be_lossless(project, database):
    database.psql(f'ALTER DATABASE "{database.name}" SET track_counts = off')
    project.write("001_base", "CREATE TABLE base (x int); INSERT INTO base VALUES (1);")
    project.deploy("u1")
    project.write("002_seed", "INSERT INTO base VALUES (7);", "DELETE FROM base WHERE x >= 7;")
    ref = fails_at_the_end(project)
    database.psql("INSERT INTO base VALUES (8)")
    assert "track_counts is off" in refused(project, ref)


def test_a_sequence_that_the_way_back_moves_is_not_moved_by_a_try(project, database):
    """No rollback undoes setval: the application would be given numbers that it has already."""
    project.write("001_base", "CREATE TABLE base (id serial PRIMARY KEY, x int);")
    project.deploy()
    down = "DELETE FROM base WHERE x = 7; SELECT pg_catalog.setval('base_id_seq', 1);"
    project.write("002_seed", "INSERT INTO base (x) VALUES (7);", down)
    ref = fails_at_the_end(project)
    database.psql("INSERT INTO base (x) VALUES (8), (7)")
    assert "moves a sequence" in refused(project, ref)
    assert database.psql("SELECT last_value FROM base_id_seq") == "3"


def test_rows_of_another_server_are_not_said_to_be_kept(project, database):
    """Nothing can be counted there. Seen of a DELETE is its lock, which PREPARE takes as well."""
    project.write("001_far", "CREATE TABLE base (id int);")
    project.deploy()
    database.psql(
        "CREATE FOREIGN DATA WRAPPER away; CREATE SERVER far FOREIGN DATA WRAPPER away;"
        "CREATE FOREIGN TABLE far_row (id int) SERVER far"
    )
    down = "PREPARE gone AS DELETE FROM far_row; DEALLOCATE gone; DELETE FROM base;"
    project.write("002_seed", "INSERT INTO base VALUES (7);", down)
    ref = fails_at_the_end(project)
    assert "rows of far_row on another server" in refused(project, ref)


@pytest.mark.parametrize(
    "there", ["", "INSERT INTO base VALUES (7);"], ids=["nothing before", "rows of its own"]
)
def test_rows_that_come_between_the_try_and_the_way_back_are_not_lost(project, database, monkeypatch, there):
    """The try locks nothing against writers: what it found is no longer so when it is over."""
    project.write("001_base", "CREATE TABLE base (x int); INSERT INTO base VALUES (1);")
    project.deploy()
    project.write("002_seed", f"{there} SELECT 1;", "DELETE FROM base WHERE x >= 7;")
    ref = fails_at_the_end(project)
    seen = loss._changes

    tried = []

    def tries(session):
        tried.append(session)
        if len(tried) == 2:  # after the script has run in the savepoint
            database.psql("INSERT INTO base VALUES (8)")
        return seen(session)

    monkeypatch.setattr(loss, "_changes", tries)
    with pytest.raises(StepFailed) as failed:
        project.revert("u9", RevertScope.OPERATION, ref)
    assert failed.value.failure.reason is Reason.DATA_WOULD_BE_LOST
    assert database.psql("SELECT count(*) FROM base WHERE x = 8") == "1"
