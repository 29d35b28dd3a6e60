"""Settings that a database gives to every session: Godwit works with them, and they mean what they meant."""

import pytest

from godwit.contract.request import RevertScope


@pytest.mark.parametrize(("style", "day"), [("SQL, DMY", "2026-02-01"), ("German", "2026-02-01")])
def test_a_style_of_dates_changes_how_dates_are_read_and_nothing_else(project, database, style, day):
    database.psql(f"ALTER DATABASE {database.name} SET DateStyle = '{style}'")
    project.write("001_old", "CREATE TABLE old (id int);", "DROP TABLE old;")
    project.write("002_day", "CREATE TABLE one AS SELECT '01/02/2026'::date AS day;", "DROP TABLE one;")
    project.deploy("u1")
    assert database.psql("SELECT to_char(day, 'YYYY-MM-DD') FROM one") == day
    ref = project.plan("001_old")
    assert project.revert("u2", RevertScope.PLAN, ref).reverted == 1
