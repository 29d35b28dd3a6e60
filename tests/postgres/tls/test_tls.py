"""Encrypted connections as a URI asks for them, in Prisma's words and in libpq's, on a real server."""

import pytest

from godwit.contract.environment import DATABASE_URI_VAR
from godwit.contract.reasons import Reason
from godwit.contract.request import Connection
from godwit.engine.errors import StepFailed
from godwit.engine.session import open_session
from godwit.engine.uri import parse_target


def encrypted(uri: str, **environ: str) -> bool:
    """Whether the session that a step would open is encrypted."""
    target = parse_target(Connection(), {DATABASE_URI_VAR: uri, **environ})
    with open_session(target, Connection(), application_name="test", expected=None, writing=False) as session:
        row = session.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        return bool(row and row[0])


def refused(uri: str) -> StepFailed:
    with pytest.raises(StepFailed) as raised:
        encrypted(uri)
    return raised.value


ACCEPTED = {
    "required": ("sslmode=require", "localhost"),
    "Prisma's default accepts any certificate": ("sslmode=require", "127.0.0.1"),
    "strict, with the authority as Prisma names it": ("sslaccept=strict&sslcert={ca}", "localhost"),
    "the authority alone": ("sslmode=require&sslcert={ca}", "localhost"),
    "any certificate, said": (
        "sslmode=require&sslcert={other}&sslaccept=accept_invalid_certs",
        "localhost",
    ),
    "verified, as libpq names it": ("sslmode=verify-full&sslrootcert={ca}", "localhost"),
    "verified without the name": ("sslmode=verify-ca&sslrootcert={ca}", "127.0.0.1"),
}


@pytest.mark.parametrize(("query", "host"), ACCEPTED.values(), ids=ACCEPTED)
def test_encrypted(uri, authority, stranger, query, host):
    words = query.format(ca=authority.certificate, other=stranger.certificate)
    assert encrypted(uri(words, host=host))


REFUSED = {
    "wrong authority, strict": ("sslaccept=strict&sslcert={other}", "localhost", "verify failed"),
    "wrong authority": ("sslmode=require&sslcert={other}", "localhost", "verify failed"),
    "wrong authority, as libpq names it": (
        "sslmode=verify-ca&sslrootcert={other}",
        "localhost",
        "verify failed",
    ),
    "wrong host name": ("sslaccept=strict&sslcert={ca}", "127.0.0.1", "does not match host name"),
    "no such authority": ("sslaccept=strict&sslcert=/nowhere.pem", "localhost", "/nowhere.pem"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused(uri, authority, stranger, case):
    query, host, said = case
    words = query.format(ca=authority.certificate, other=stranger.certificate)
    failure = refused(uri(words, host=host)).failure
    assert failure.reason is Reason.TLS_REFUSED
    assert said in failure.message


def test_strict_without_an_authority_takes_the_machines(uri, authority, stranger):
    strict = uri("sslaccept=strict")
    assert encrypted(strict, SSL_CERT_FILE=str(authority.certificate))
    with pytest.raises(StepFailed) as raised:
        encrypted(strict, SSL_CERT_FILE=str(stranger.certificate))
    assert raised.value.failure.reason is Reason.TLS_REFUSED


def test_without_encryption_a_server_that_wants_it_refuses(uri):
    assert refused(uri("sslmode=disable")).failure.reason is Reason.AUTHENTICATION_FAILED
    assert not encrypted(uri("sslmode=disable", user="postgres"))


def test_required_where_the_server_has_none(database):
    failure = refused(f"{database.uri}?sslmode=require").failure
    assert failure.reason is Reason.TLS_REFUSED
    assert "does not support SSL" in failure.message
    assert not encrypted(f"{database.uri}?sslmode=prefer")


def test_a_client_certificate_with_its_key(uri, authority, stranger):
    certificate, key = authority.issue("holder")
    words = f"sslmode=verify-full&sslrootcert={authority.certificate}&sslcert={certificate}&sslkey={key}"
    assert encrypted(uri(words, user="holder"))
    without = f"sslmode=verify-full&sslrootcert={authority.certificate}"
    assert refused(uri(without, user="holder")).failure.reason is Reason.AUTHENTICATION_FAILED
    foreign, foreign_key = stranger.issue("holder")
    words = f"sslmode=verify-full&sslrootcert={authority.certificate}&sslcert={foreign}&sslkey={foreign_key}"
    assert refused(uri(words, user="holder")).failure.reason is Reason.TLS_REFUSED


def test_an_unknown_sslmode_is_named(uri):
    assert refused(uri("sslmode=sometimes")).failure.reason is Reason.CONNECTION_INVALID


def test_a_socket_directory_in_the_place_of_a_host(database):
    server = database.server
    address = f"postgresql://postgres@localhost:{server.port}/{database.name}?host={server.socket_dir}"
    assert not encrypted(address)


def test_prismas_words_on_its_pool_are_no_trouble(uri):
    words = (
        "sslmode=require&schema=public&connection_limit=5&pool_timeout=3&connect_timeout=7&socket_timeout=9"
    )
    assert encrypted(uri(words))


def test_a_transaction_pooler_that_is_declared_is_refused(uri):
    assert refused(uri("sslmode=require&pgbouncer=true")).failure.reason is Reason.POOLER_REFUSED
