"""Hostile files: each ends in a named reason or is rightly applied, and the database is as that end says."""

import contextlib
import threading
from itertools import count

import psycopg
import pytest
from failing import failure_of
from project import Project
from waiting import until

from godwit.contract.policy import Environment, Policy
from godwit.contract.reasons import Reason
from godwit.contract.request import ApplyInput
from godwit.engine.apply import apply_verb
from godwit.engine.errors import StepFailed

from .case import Case, End
from .deeds import DEEDS
from .odd import ODD
from .runs import RUNS
from .texts import TEXTS

CASES = [
    *TEXTS,
    *DEEDS,
    *RUNS,
    *ODD,
    Case(
        "50 MB of statements",
        b"SELECT 1;\n" * (5 * 1024 * 1024),
        End.PLAN,
        Reason.STATEMENT_REFUSED,
        says="it has 50 MiB, and a script has at most 8",
    ),
]
USERS = (
    "CREATE TABLE users (id int PRIMARY KEY, name text);"
    "INSERT INTO users SELECT n, n FROM generate_series(1, 50) n;"
)
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'godwit%' AND datname = current_database()"
BUDGET_S = 3.0
_operations = count(1)

# Everything that a migration can change and a dump of the database shows or does not show: its catalogs, the
# server's own, what is prepared, locked and connected. What moves by itself is left out.
_CATALOGS = [
    "pg_am",
    "pg_attrdef",
    "pg_attribute",
    "pg_auth_members",
    "pg_authid",
    "pg_cast",
    "pg_class",
    "pg_collation",
    "pg_constraint",
    "pg_db_role_setting",
    "pg_default_acl",
    "pg_enum",
    "pg_event_trigger",
    "pg_extension",
    "pg_index",
    "pg_inherits",
    "pg_language",
    "pg_namespace",
    "pg_policy",
    "pg_proc",
    "pg_publication",
    "pg_rewrite",
    "pg_seclabel",
    "pg_tablespace",
    "pg_trigger",
    "pg_ts_config",
    "pg_type",
]
_SERVER = (
    "SELECT datname, datallowconn, datconnlimit FROM pg_database WHERE datname IN ('postgres', 'template1')",
    "SELECT gid FROM pg_prepared_xacts",
    "SELECT name, setting FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf'",
    "SELECT relation FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
)


# A row of these is immutable: any change makes another version of it, in another place and by another transaction.
# That is told for a tenth of what the text of thousands of rows costs. (pg_class is changed in place too.)
_VERSIONED = {"pg_attribute", "pg_cast", "pg_proc", "pg_rewrite", "pg_type"}


def digests(queries: dict[str, str]) -> str:
    """One query for the digests of what all these return, by name."""
    return " UNION ALL ".join(
        f"SELECT $name${name}$name$, md5(coalesce(string_agg(r::text, ',' ORDER BY r::text), '')) FROM ({query}) r"
        for name, query in queries.items()
    )


_PICTURE = digests(
    {
        name: f"SELECT {'ctid, xmin' if name in _VERSIONED else '*'} FROM pg_catalog.{name}"
        for name in _CATALOGS
    }
    | {query: query for query in _SERVER}
)


def picture(conn: psycopg.Connection) -> dict[str, str]:
    """The database and its server as digests: catalogs, rows of every table but the journal's, locks."""
    found = dict(conn.execute(_PICTURE).fetchall())
    tables = conn.execute(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN "
        "('pg_catalog', 'information_schema', 'godwit')"
    )
    queries = {name: f"SELECT * FROM {name}" for (name,) in tables.fetchall()}
    return found | dict(conn.execute(digests(queries)).fetchall())


class Victim:
    """The database of all files that must leave nothing: made anew when one of them left something."""

    NAME = "hostile_victim"

    def __init__(self, server):
        self.server = server
        self.uri = server.uri(self.NAME)
        self.before = None
        self.conn = None

    def project(self, folder):
        made = Project(None, folder, self.uri)
        made.write("001_users", USERS)
        if self.before is None:
            self.server.drop_database(self.NAME)
            self.server.create_database(self.NAME)
            made.deploy("first")
            self.before = picture(self.looking())
        return made

    def looking(self):
        """A session that stays until a file ends it: a new one must first learn what the catalogs are."""
        if self.conn is not None:
            with contextlib.suppress(psycopg.OperationalError):
                self.conn.execute("SELECT 1")
                return self.conn
        self.close()
        self.conn = psycopg.connect(self.uri, autocommit=True, application_name="picture")
        return self.conn

    def close(self):
        if self.conn is not None:
            self.conn.close()

    def is_as_before(self):
        conn = self.looking()
        # A lost connection leaves the operation's claim to its next attempt, which does not come here.
        conn.execute("DELETE FROM godwit.settings WHERE key = 'activeOperation'")
        until(lambda: conn.execute(SESSIONS).fetchone() == (0,), "its sessions are gone")
        after, before = picture(conn), self.before
        self.before = before if after == before else None
        assert [name for name in after | before if after.get(name) != before.get(name)] == []


@pytest.fixture(scope="module")
def victim(postgres_server):
    found = Victim(postgres_server)
    yield found
    found.close()
    postgres_server.drop_database(Victim.NAME)


def attempt(project, case):
    """Plan and apply as two steps do, with limits that end what does not end by itself."""
    policy = Policy(
        environment=Environment.DEVELOPMENT,
        lock_timeout_ms=500,
        lock_budget_ms=600,
        max_lock_hold_ms=30_000 if case.end is End.APPLIED else 700,
        statement_timeout_ms=30_000 if case.end is End.APPLIED else 1_000,
    )
    ctx = project.context(f"hostile-{next(_operations)}", "apply")
    try:
        plan = project.plan(policy=policy)
    except StepFailed as failed:
        return End.PLAN, failed
    message = "The step did not end within its budget."
    timer = threading.Timer(BUDGET_S, ctx.cancelled.cancel, (Reason.DEADLINE_EXCEEDED, message))
    if case.unbounded:
        timer.start()
    try:
        apply_verb(ctx, ApplyInput(plan=plan, policy=policy))
    except StepFailed as failed:
        return (End.HALF if failed.outcome.partial else End.APPLY), failed
    finally:
        timer.cancel()
    return End.APPLIED, None


def told(case, end, failed):
    """How the file ended, and whether that was told as it should be."""
    failure = failed.failure if failed else None
    assert (end, failure and failure.reason) == (case.end, case.reason), failure
    if failure is None:
        return
    assert case.says in failure.message
    assert case.sqlstate in {"", failure.sqlstate}
    assert failure.migration == "002_hostile"
    assert failure.standing, "where the database stands"
    assert failure.reason.advice.next


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.end in {End.PLAN, End.APPLY}], ids=lambda case: case.name
)
def test_it_ends_in_a_named_reason_and_leaves_nothing(victim, tmp_path, case):
    project = victim.project(tmp_path)
    (project.folder / "002_hostile").mkdir()
    (project.folder / "002_hostile/migration.sql").write_bytes(case.content)
    end = attempt(project, case)
    victim.is_as_before()
    told(case, *end)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.end in {End.APPLIED, End.HALF}], ids=lambda case: case.name
)
def test_it_stands_with_its_history_as_it_is_told(project, case):
    project.write("001_users", USERS)
    (project.folder / "002_hostile").mkdir()
    (project.folder / "002_hostile/migration.sql").write_bytes(case.content)
    told(case, *attempt(project, case))
    assert project.rows() == ["001_users", "002_hostile" if case.end is End.APPLIED else "002_hostile!"]
    assert project.database.psql(case.probe) == "t"
    if case.end is End.APPLIED:
        # Nothing of the session is left to the next one.
        project.write("003_next", "CREATE TABLE next (id int); INSERT INTO next SELECT count(*) FROM users;")
        project.database.psql("DELETE FROM godwit.settings WHERE key = 'activeOperation'")
        assert project.apply(f"next-{next(_operations)}").current == "003_next"


def test_a_vertical_tab_is_white_space_to_newer_servers_only(project, postgres_server):
    project.write("001_users", USERS)
    project.write("002_tab", "SELECT\v1;")
    if int(postgres_server.psql("SHOW server_version_num")) >= 170_000:
        assert project.apply().applied == 2
    else:
        failure, outcome = failure_of(project.apply)
        assert (failure.reason, failure.sqlstate) == (Reason.MIGRATION_FAILED, "42601")
        assert outcome.applied == 1


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own():
    assert len({case.name for case in CASES}) == len(CASES)
    assert len(CASES) >= 200
