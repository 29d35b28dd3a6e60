"""An index that somebody else built meanwhile on the same table is not taken for the one of the migration."""

import pytest
from failing import failure_of

from godwit.contract.reasons import Reason

USERS = "CREATE TABLE users (id int, name text, mail text);"
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'godwit apply%'"
VALID = """
SELECT string_agg(pg_get_indexdef(indexrelid), '; ' ORDER BY 1) FROM pg_index
 WHERE indrelid = 'users'::regclass AND indisvalid"""


def built_meanwhile(project, wanted, others):
    """The session ends before the index is built, while others build theirs; returns the plan."""
    project.write("001_users", USERS)
    project.deploy()
    project.write("002_index", f"{wanted};")
    ref = project.plan()

    def point(name):
        if name == "apply.before_statement":
            project.database.psql(f"{others}; {END}")

    project.point = point
    assert failure_of(lambda: project.apply("u2", plan=ref))[0].reason is Reason.CONNECTION_LOST
    project.point = lambda _: None
    return ref


@pytest.mark.parametrize(
    ("wanted", "others"),
    [
        ("ON users (name)", "INDEX ON users (mail)"),
        ("ON users (name)", "INDEX ON users (name, mail)"),
        ("ON users (name)", "INDEX ON users (name) INCLUDE (mail)"),
        ("ON users (name)", "UNIQUE INDEX ON users (name)"),
        ("ON users (name)", "INDEX ON users USING hash (name)"),
        ("ON users (name)", "INDEX ON users (name) WHERE name <> ''"),
        ("ON users (name)", "INDEX ON users (name DESC)"),
        ("ON users (lower(name))", "INDEX ON users (name)"),
        ("IF NOT EXISTS mine ON users (name)", "INDEX mail ON users (mail)"),
    ],
)
def test_the_index_of_the_migration_is_built(project, wanted, others):
    ref = built_meanwhile(project, f"CREATE INDEX CONCURRENTLY {wanted}", f"CREATE {others}")
    assert project.apply("u2", plan=ref).current == "002_index"
    assert len(project.database.psql(VALID).split("; ")) == 2


@pytest.mark.parametrize(
    ("wanted", "others"),
    [
        ("ON users (lower(name))", "INDEX ON users (upper(name))"),
        ("ON users (name) WHERE id > 3", "INDEX ON users (name) WHERE id > 4"),
    ],
)
def test_what_may_be_the_index_of_the_migration_stops(project, wanted, others):
    ref = built_meanwhile(project, f"CREATE INDEX CONCURRENTLY {wanted}", f"CREATE {others}")
    failure, _ = failure_of(lambda: project.apply("u2", plan=ref))
    assert failure.reason is Reason.PARTIALLY_APPLIED


def test_another_index_of_the_same_name_is_an_error(project):
    ref = built_meanwhile(
        project, "CREATE INDEX CONCURRENTLY i ON users (name)", "CREATE INDEX i ON users (mail)"
    )
    failure, outcome = failure_of(lambda: project.apply("u2", plan=ref))
    assert (failure.sqlstate, outcome.partial) == ("42P07", "")


@pytest.mark.parametrize(
    "made",
    [
        "CREATE INDEX CONCURRENTLY ON users (name)",
        "CREATE UNIQUE INDEX CONCURRENTLY ON public.users USING btree (name ASC, mail) INCLUDE (id)",
        'CREATE INDEX CONCURRENTLY ON users ("name" text_pattern_ops DESC NULLS LAST) WITH (fillfactor = 70)',
        'CREATE INDEX CONCURRENTLY ON users (name COLLATE "C")',
        "CREATE INDEX CONCURRENTLY named ON users (lower(name)) WHERE id > 3 AND name IS NOT NULL",
    ],
)
def test_the_one_that_is_there_as_it_was_wanted_is_not_built_again(project, made):
    """As where the session ends after the index was built and before that was recorded."""
    ref = built_meanwhile(project, made, made.replace("CONCURRENTLY ", ""))
    assert project.apply("u2", plan=ref).current == "002_index"
    assert len(project.database.psql(VALID).split("; ")) == 1
