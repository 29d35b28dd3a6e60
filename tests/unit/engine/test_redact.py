"""Passwords do not leave by way of messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.contract.reasons import Reason
from godwit.engine.errors import fail
from godwit.engine.redact import redact, secrets_in

SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        "ALTER ROLE app PASSWORD 'hunter2'",
        "create user app with encrypted password E'hunter2' login",
        "CREATE ROLE app PASSWORD $x$hunter2$x$",
        "CREATE USER MAPPING FOR app SERVER s OPTIONS (user 'app', password 'hunter2')",
        "CREATE SUBSCRIPTION s CONNECTION 'host=db password=hunter2 user=app' PUBLICATION p",
        "SELECT dblink_connect('host=db password = hunter2')",
        "postgresql://app:hunter2@db:5432/shop?schema=public",
        "could not connect to postgres://app:hunter2@db/shop: refused",
        "host=db sslpassword=hunter2 sslkey=/k",
        "ALTER ROLE app PASSWORD 'hunter2",  # cut in the middle
        "DO $$ BEGIN EXECUTE 'ALTER ROLE app PASSWORD ''hunter2",  # the same
        "ALTER ROLE app PASSWORD U&'hunter2'",
        "ALTER ROLE app PASSWORD'hunter2'",
        "ALTER ROLE app PASSWORD /* the new one */ 'hunter2' -- since May",
        "ALTER ROLE app PASSWORD -- the new one\n'hunter2'",
        "CREATE USER MAPPING FOR app SERVER s OPTIONS (user 'app', \"password\" 'hunter2')",
        "CREATE USER MAPPING FOR app SERVER s OPTIONS (odbc_UID 'app', odbc_PWD 'hunter2')",
        "ALTER SERVER s OPTIONS (SET password 'hunter2')",
        "CREATE SUBSCRIPTION s CONNECTION 'host=db password=''hunter2'' user=app' PUBLICATION p",
        "SELECT dblink_connect($c$host=db password='hunter2'$c$)",
        "SELECT dblink('postgresql://db/shop?user=app&password=hunter2', 'TABLE t')",
        "DO $$ BEGIN EXECUTE 'CREATE ROLE app PASSWORD ''hunter2'''; END $$",
        "DO $$ BEGIN EXECUTE 'ALTER ROLE app PASSWORD ' || quote_literal('hunter2'); END $$",
        "UPDATE staff SET password = crypt('hunter2', gen_salt('bf')) WHERE name = 'ann'",
        "INSERT INTO staff (name, hash) VALUES ('ann', crypt('hunter2', gen_salt('bf')))",
        "UPDATE staff SET user_password = 'hunter2' WHERE name = 'ann'",
        "SET app.password TO 'hunter2'",
        "SELECT set_config('app.password', 'hunter2', false)",
        """INSERT INTO config VALUES ('{"password": "hunter2"}')""",
        "COPY t FROM PROGRAM 'hunter2'",
    ],
)
def test_a_password_is_masked_and_the_rest_stays(text):
    shown = redact(text)
    assert SECRET not in shown
    assert "***" in shown
    assert secrets_in(text) == (SECRET,)


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE account (password text NOT NULL, password_hint text)",
        "SELECT 'it''s', $$body$$",
        "CREATE TABLE account (password text NOT NULL DEFAULT '', role text DEFAULT 'reader')",
        "COMMENT ON COLUMN account.password IS 'made by bcrypt'",
        "SELECT crypt(given, password) = password FROM account WHERE name = 'ann'",
        "SELECT * FROM program WHERE name = 'news'",
        'password authentication failed for user "app"',
        "postgresql://db:5432/shop",
        "",
    ],
)
def test_what_holds_no_password_is_left_alone(text):
    assert redact(text) == text


def test_an_unescaped_at_sign_belongs_to_the_password():
    assert redact("postgresql://app:p@ss@w0rd@db/shop") == "postgresql://app:***@db/shop"


def test_a_message_that_quotes_the_statement_is_masked_by_what_the_statement_holds():
    failed = fail(
        Reason.MIGRATION_FAILED,
        'syntax error at or near "hunter2"',
        statement="ALTER ROLE app PASSWORD 'hunter2' VALID FOREVER",
    )
    assert SECRET not in failed.failure.model_dump_json()
    assert failed.failure.message == 'syntax error at or near "***"'


def test_a_password_that_stands_in_the_statement_twice_is_masked_twice():
    failed = fail(
        Reason.MIGRATION_FAILED,
        "boom",
        statement="SELECT set_config('app.password', 'hunter2', true), log('hunter2')",
    )
    assert failed.failure.statement == "SELECT set_config('app.password', '***', true), log('***')"


def test_a_short_secret_does_not_tear_words_apart():
    assert redact("connection refused by p", "p") == "connection refused by ***"


def test_a_literal_that_goes_on_in_the_next_line_is_one():
    assert redact("ALTER ROLE app PASSWORD 'one'\n  'two' LOGIN") == "ALTER ROLE app PASSWORD '***' LOGIN"


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def escaped(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# Statements that a server would take, for any password.
WRITTEN = {
    "a literal": lambda p: f"ALTER ROLE app PASSWORD {quoted(p)} LOGIN",
    "an escaped one": lambda p: f"ALTER ROLE app PASSWORD E{escaped(p)} LOGIN",
    "one of dollars": lambda p: f"ALTER ROLE app PASSWORD $q${p.replace('$', '')}$q$ LOGIN",
    "an option": lambda p: f"CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'a', password {quoted(p)})",
    "in a string": lambda p: f"DO {quoted('EXECUTE ' + quoted('ALTER ROLE a PASSWORD ' + quoted(p)))}",
    "a keyword": lambda p: f"SELECT dblink_connect({quoted('host=db password=' + escaped(p))})",
    "concatenated": lambda p: f"EXECUTE 'ALTER ROLE a PASSWORD ' || quote_literal({quoted(p)}) || ' LOGIN'",
    "formatted": lambda p: f"EXECUTE format('ALTER ROLE %I PASSWORD %L LOGIN', 'a', {quoted(p)})",
    "a call": lambda p: f"UPDATE staff SET password = crypt({quoted(p)}, gen_salt('bf'))",
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
@given(between=st.text("ab1 '\"\\$%;,()@:/=-*|\n", max_size=12))
def test_nothing_of_it_is_left_however_it_is_written(write, between):
    assert SECRET not in redact(write(f"{SECRET}{between}{SECRET}"))


@given(st.text(min_size=1).filter(lambda s: "'" not in s and "\\" not in s))
def test_whatever_the_password_is_it_is_gone(password):
    text = f"ALTER ROLE app PASSWORD '{password}'"
    assert redact(text) == "ALTER ROLE app PASSWORD '***'"
