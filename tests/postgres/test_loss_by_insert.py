"""An INSERT that destroys by what the database does besides: triggers, rules, functions of defaults."""

import pytest
from failing import failure_of

from godwit.contract.outcome import Rung
from godwit.contract.reasons import Reason
from godwit.contract.request import RevertScope

TABLES = """
CREATE TABLE total (n int); INSERT INTO total VALUES (7);
CREATE TABLE log (line text);
CREATE TABLE item (id int, at timestamptz);
CREATE TABLE part (id int) PARTITION BY LIST (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE FUNCTION counts() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN UPDATE total SET n = n + 1; RETURN NEW; END$$;
CREATE FUNCTION counted() RETURNS int LANGUAGE sql AS 'DELETE FROM total RETURNING n';
CREATE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN
    -- DELETE and TRUNCATE are only named
    IF TG_OP = 'UPDATE' OR TG_OP = 'DELETE' THEN RAISE NOTICE 'no'; END IF;
    NEW.at := now(); INSERT INTO log VALUES (lower('X'));
    PERFORM pg_notify('items', NEW.id::text); RETURN NEW;
  END$$;
CREATE FUNCTION stamp() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT now()';
"""
DESTROYS = {
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION counts();",
    "one of a partition": "CREATE TRIGGER t AFTER INSERT ON part_1 FOR EACH ROW EXECUTE FUNCTION counts();",
    "a rule": "CREATE RULE r AS ON INSERT TO item DO ALSO DELETE FROM total;",
    "a default": "ALTER TABLE item ADD n int; ALTER TABLE item ALTER n SET DEFAULT counted();",
    "a default with a body that is parsed": "CREATE FUNCTION gone() RETURNS int "
    "BEGIN ATOMIC DELETE FROM total RETURNING n; END; ALTER TABLE item ADD n int;"
    "ALTER TABLE item ALTER n SET DEFAULT gone();",
    "a condition": "ALTER TABLE item ADD CHECK (coalesce(counted(), 0) < 9) NOT VALID;",
}
KEEPS = {
    "a trigger that adds": "CREATE TRIGGER t BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION logs();",
    "a trigger of updates": "CREATE TRIGGER t AFTER UPDATE ON item FOR EACH ROW EXECUTE FUNCTION counts();",
    "one that is off": "CREATE TRIGGER t AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION counts();"
    "ALTER TABLE item DISABLE TRIGGER t;",
    "a function that cannot write": "ALTER TABLE item ALTER at SET DEFAULT stamp();",
}
COUNTS = "RETURNS int LANGUAGE sql AS 'UPDATE total SET n = n + 1 RETURNING n'"
CHANGES = {
    "a trigger on what a trigger adds": (
        """CREATE TRIGGER t AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION logs();
        CREATE TRIGGER t AFTER INSERT ON log FOR EACH ROW EXECUTE FUNCTION counts();""",
        "INSERT INTO item (id) VALUES (1);",
    ),
    "an operator": (
        f"""CREATE FUNCTION plus(int, int) {COUNTS};
        CREATE OPERATOR <<<>>> (LEFTARG = int, RIGHTARG = int, FUNCTION = plus);""",
        "SELECT 1 <<<>>> 2;",
    ),
    "a domain's default": (
        f"""CREATE FUNCTION next() {COUNTS}; INSERT INTO item VALUES (3);
        CREATE DOMAIN number AS int DEFAULT next();""",
        "ALTER TABLE item ADD n number;",
    ),
    "a condition that is validated": (
        f"""CREATE FUNCTION next() {COUNTS}; INSERT INTO item VALUES (3);
        ALTER TABLE item ADD CONSTRAINT positive CHECK (next() > 0) NOT VALID;""",
        "ALTER TABLE item VALIDATE CONSTRAINT positive;",
    ),
    "a view": (
        f"CREATE FUNCTION next() {COUNTS}; CREATE VIEW numbers AS SELECT next() AS n;",
        "CREATE TABLE kept AS TABLE numbers;",
    ),
    "an event trigger": (
        """CREATE FUNCTION noted() RETURNS event_trigger LANGUAGE plpgsql AS
        $$BEGIN UPDATE total SET n = n + 1; END$$;
        CREATE EVENT TRIGGER e ON ddl_command_end WHEN tag IN ('CREATE VIEW') EXECUTE FUNCTION noted();""",
        "CREATE VIEW other AS SELECT 1;",
    ),
}
INSERT = "INSERT INTO item (id) VALUES (1); INSERT INTO part VALUES (1);"
DOWN = "DELETE FROM item; DELETE FROM part;"


def taken_back(project, before, sql):
    """What becomes of a run that inserts and then fails, when it is taken back; and what was promised."""
    project.write("001_tables", TABLES + before)
    project.deploy()
    project.write("002_rows", sql, DOWN)
    (promised,) = [r.possible for r in project.planned().rungs if r.rung is Rung.DOWN]
    project.write("003_bad", "SELECT 1/0;", "SELECT 1;")
    ref = project.plan()
    failure, outcome = failure_of(lambda: project.apply("u9", plan=ref))
    assert failure.migration == "003_bad"
    (told,) = [r.possible for r in outcome.rungs if r.rung is Rung.DOWN]
    return lambda: project.revert("u9", RevertScope.OPERATION, ref), promised, told


@pytest.mark.parametrize("before", DESTROYS.values(), ids=DESTROYS)
def test_what_is_not_lossless_is_not_promised_and_not_taken_back_as_such(project, before):
    revert, promised, told = taken_back(project, before, INSERT)
    assert (promised, told) == (False, False)
    failure, _ = failure_of(revert)
    assert failure.reason is Reason.DATA_WOULD_BE_LOST
    assert "it destroyed or rewrote data" in failure.message


@pytest.mark.parametrize(("before", "sql"), CHANGES.values(), ids=CHANGES)
def test_rows_that_were_changed_count_whatever_has_changed_them(project, before, sql):
    revert, _, told = taken_back(project, before, sql)
    assert project.database.psql("SELECT n FROM total") == "8"
    assert told is False
    failure, _ = failure_of(revert)
    assert failure.reason is Reason.DATA_WOULD_BE_LOST
    assert "it destroyed or rewrote data" in failure.message


def test_rows_of_a_table_that_the_migration_made_itself_may_change(project):
    own = (
        "CREATE TABLE own (n int); INSERT INTO own VALUES (1);"
        "CREATE FUNCTION plus(int, int) RETURNS int LANGUAGE sql AS 'UPDATE own SET n = n + 1 RETURNING n';"
        "CREATE OPERATOR <<<>>> (LEFTARG = int, RIGHTARG = int, FUNCTION = plus);"
        "ALTER TABLE item ADD n int; SELECT 1 <<<>>> 2;"
    )
    revert, _, told = taken_back(project, "", own)
    assert (told, project.database.psql("SELECT n FROM own")) == (True, "2")
    assert revert().reverted == 1


@pytest.mark.parametrize("before", KEEPS.values(), ids=KEEPS)
def test_what_keeps_all_data_is_taken_back(project, before):
    revert, promised, told = taken_back(project, before, INSERT)
    assert (promised, told) == (True, True)
    assert revert().reverted == 1
    assert project.database.psql("SELECT n FROM total") == "7"


@pytest.mark.parametrize(
    "sql",
    [
        "COPY item (id) FROM '/dev/null';",
        "WITH more AS (INSERT INTO item (id) VALUES (1) RETURNING id) SELECT id FROM more;",
        "DO $$ BEGIN INSERT INTO public.item (id) VALUES (1); END $$;",
        'DO $$ BEGIN insert into"item"(id) VALUES (1); END $$;',
    ],
)
def test_whatever_adds_rows_counts(project, sql):
    _, promised, told = taken_back(project, DESTROYS["a trigger"], sql)
    assert (promised, told) == (False, False)


def test_a_trigger_that_the_run_itself_made_counts_when_it_is_taken_back(project):
    project.write("000_base", "CREATE TABLE base (id int);")
    project.deploy("u0")
    project.write("001_tables", TABLES + DESTROYS["a trigger"], "SELECT 1;")
    project.write("002_rows", INSERT, DOWN)
    project.write("003_bad", "SELECT 1/0;")
    ref = project.plan()
    failure_of(lambda: project.apply("u9", plan=ref))
    failure, _ = failure_of(lambda: project.revert("u9", RevertScope.OPERATION, ref))
    assert (failure.reason, failure.migration) == (Reason.DATA_WOULD_BE_LOST, "002_rows")


def test_a_way_back_outside_a_transaction_is_not_lossless_where_its_rows_set_off_what_destroys(project):
    project.write("001_tables", TABLES + DESTROYS["a trigger"])
    project.deploy()
    down = "DROP INDEX CONCURRENTLY total_n; INSERT INTO item (id) VALUES (1);"
    project.write("002_index", "CREATE INDEX total_n ON total (n);", down)
    project.write("003_bad", "SELECT 1/0;", "SELECT 1;")
    ref = project.plan()
    failure_of(lambda: project.apply("u9", plan=ref))
    failure, _ = failure_of(lambda: project.revert("u9", RevertScope.OPERATION, ref))
    assert failure.reason is Reason.DATA_WOULD_BE_LOST
    assert "outside a transaction, where nothing can be counted" in failure.message
    assert project.database.psql("SELECT n FROM total") == "7"
