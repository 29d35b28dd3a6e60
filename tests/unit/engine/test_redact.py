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


def test_a_short_secret_does_not_tear_words_apart():
    assert redact("connection refused by p", "p") == "connection refused by ***"


@given(st.text(min_size=1).filter(lambda s: "'" not in s and "\\" not in s))
def test_whatever_the_password_is_it_is_gone(password):
    text = f"ALTER ROLE app PASSWORD '{password}'"
    assert redact(text) == "ALTER ROLE app PASSWORD '***'"
