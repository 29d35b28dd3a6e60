"""Connections are read as Prisma and libpq read them, and never guessed."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import pq

from godwit.contract.environment import DATABASE_PASSWORD_VAR, DATABASE_URI_VAR, DATABASE_USER_VAR
from godwit.contract.reasons import Reason
from godwit.contract.request import Connection
from godwit.engine.errors import StepFailed
from godwit.engine.uri import Target, parse_target


def target(uri: str, **connection) -> Target:
    return parse_target(Connection(**connection), {DATABASE_URI_VAR: uri})


def params(uri: str) -> dict[str, str]:
    return dict(target(uri).params)


BASE = {"host": "db", "user": "app", "password": "pw", "dbname": "shop"}


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql://app:pw@db:5433/shop", BASE | {"port": "5433"}),
        ("postgres://app:pw@db/shop", BASE),
        ("  postgresql://app:pw@db/shop\n", BASE),
        ("postgresql://app:pw@[::1]:5433/shop", BASE | {"host": "::1", "port": "5433"}),
        ("postgresql://app:pw@a:1,b:2/shop", BASE | {"host": "a,b", "port": "1,2"}),
        ("postgresql://app:pw@%2Frun%2Fpg/shop", BASE | {"host": "/run/pg"}),
        ("postgresql://app:pw@/shop?host=/run/pg", BASE | {"host": "/run/pg"}),
        ("postgresql://app:p%40w@db/shop", BASE | {"password": "p@w"}),
        ("postgresql://app:p@w@db/shop", BASE | {"password": "p@w"}),  # Prisma takes the last @
        ("postgresql://app:p%w@db/shop", BASE | {"password": "p%w"}),  # Prisma leaves a stray % alone
        ("postgresql://app:p#w@db/shop", BASE | {"password": "p#w"}),  # libpq knows no fragment
        ("postgresql://app:p:w@db/shop", BASE | {"password": "p:w"}),
        ("postgresql://app:pw@db/my%20shop", BASE | {"dbname": "my shop"}),
        ("postgresql://app:pw@db/shop?sslmode=require", BASE | {"sslmode": "require"}),
        ("postgresql://app:pw@db/shop?ssl=true", BASE | {"sslmode": "require"}),
        ("postgresql://app:pw@db/shop?connect_timeout=5", BASE | {"connect_timeout": "5"}),
        ("postgresql://app:pw@db/shop?application_name=a+b", BASE | {"application_name": "a+b"}),
        ("postgresql://app:pw@db/shop?schema=x&application_name=a+b", BASE | {"application_name": "a b"}),
        ("postgresql://app:pw@db/shop?connection_limit=5&pool_timeout=2&socket_timeout=1", BASE),
        ("postgresql://app:pw@db/shop?statement_cache_size=0&single_use_connections=true", BASE),
        ("postgresql://app:pw@db/shop?sslcert=/ca.pem", BASE | {"sslrootcert": "/ca.pem"}),
        (
            "postgresql://app:pw@db/shop?sslaccept=strict&sslcert=/ca.pem",
            BASE | {"sslmode": "verify-full", "sslrootcert": "/ca.pem"},
        ),
        (
            "postgresql://app:pw@db/shop?sslmode=require&sslaccept=strict&sslrootcert=/ca.pem",
            BASE | {"sslmode": "verify-full", "sslrootcert": "/ca.pem"},
        ),
        (
            "postgresql://app:pw@db/shop?sslcert=/ca.pem&sslaccept=accept_invalid_certs",
            BASE,  # accepted, whatever it is
        ),
        (
            "postgresql://app:p%40w%2F%3A@localhost:6432/shop?host=/var/run/postgresql",
            BASE | {"host": "/var/run/postgresql", "port": "6432", "password": "p@w/:"},
        ),
        (
            "postgresql://app:pw@db/shop?sslcert=/c.pem&sslkey=/k.pem",
            BASE | {"sslcert": "/c.pem", "sslkey": "/k.pem"},  # with its key it is libpq's client certificate
        ),
        ("host=db user=app password='p w' dbname=shop", BASE | {"password": "p w"}),
    ],
)
def test_a_uri_becomes_the_keywords_of_libpq(uri, expected):
    assert params(uri) == expected


def test_the_schema_is_the_uris_else_the_first_declared_else_public():
    assert target("postgresql://app@db/shop").schema == "public"
    assert target("postgresql://app@db/shop", schemas=("a", "b")).schema == "a"
    assert target("postgresql://app@db/shop?schema=My%20App", schemas=("a",)).schema == "My App"
    assert target("host=db user=app dbname=shop", schemas=()).schema == "public"


@pytest.mark.parametrize(
    "uri", ["postgresql://app@db/shop?sslaccept=strict", "host=db user=app dbname=shop sslrootcert=system"]
)
def test_the_machines_own_authorities_are_a_file_that_any_openssl_can_read(uri, tmp_path):
    bundle = tmp_path / "authorities.pem"
    bundle.write_text("")
    found = parse_target(Connection(), {DATABASE_URI_VAR: uri, "SSL_CERT_FILE": str(bundle)}).params
    assert (found["sslmode"], found["sslrootcert"]) == ("verify-full", str(bundle))


def test_pgbouncer_true_says_that_a_pooler_stands_between():
    assert target("postgresql://app@db/shop?pgbouncer=true").pgbouncer
    assert not target("postgresql://app@db/shop?pgbouncer=false").pgbouncer


def test_parts_take_user_and_password_from_the_environment():
    found = parse_target(
        Connection(host="db", port=5433, database="shop", sslmode="require"),
        {DATABASE_USER_VAR: "app\n", DATABASE_PASSWORD_VAR: " p@w\n"},
    )
    assert dict(found.params) == {
        "host": "db",
        "port": "5433",
        "dbname": "shop",
        "user": "app",
        "password": " p@w",
        "sslmode": "require",
    }


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("postgresql://app:hunter2@db/shop?sslrootcrt=/x", "sslrootcrt"),
        ("postgresql://app:hunter2@db/shop?replication=database", "replication"),
        ("postgresql://app:hunter2@db/shop?sslidentity=/x.p12", "sslidentity"),
        ("postgresql://app:hunter2@db/shop?sslaccept=maybe", "sslaccept"),
        ("postgresql://app:hunter2@db/shop?sslcert=/a&sslrootcert=/b", "sslcert"),
        ("prisma://accelerate.example/?api_key=hunter2", "prisma://"),
        ("prisma+postgres://accelerate.example/?api_key=hunter2", "prisma+postgres://"),
        ("mysql://app:hunter2@db/shop", "mysql://"),
        ("postgresql://app:hunter2@db:54x2/shop", "host and port"),
        ("postgresql://app:hunter2@db", "database"),
        ("postgresql://db/shop", "user"),
        ("postgresql://app:%ff@db/shop", "password"),
        ("postgresql://app:hunter2%00@db/shop", "NUL"),
        ("host=db user=app password=hunter2 dbname=shop schema=x", "schema"),
        ("host=db user=app password='hunter2", "keyword string"),
        ("host=db user=app dbname=shop sslrootcrt=hunter2", "sslrootcrt"),
        ("hunter2=", "keyword string"),  # the Secret's key of the password, in base64
        ("host=db user=app password=two hunter2=words dbname=shop", "keyword string"),
        ("postgresql://app:?hunter2@db/shop", "%3F"),
        ("postgresql://app:1?x&hunter2=%ff@db/shop", "%3F"),
        ("postgresql://app:hunter2\udce4@db/shop", "not UTF-8"),  # a password in Latin-1
        ("", "neither a URI nor a host"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name_and_no_secret_is_shown(uri, named):
    with pytest.raises(StepFailed) as raised:
        target(uri)
    failure = raised.value.failure
    assert failure.reason is Reason.CONNECTION_INVALID
    assert named in failure.message
    assert "hunter2" not in failure.model_dump_json()


def test_a_target_does_not_show_its_password():
    assert "hunter2" not in repr(target("postgresql://app:hunter2@db/shop"))


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1)


@given(user=TEXT, password=TEXT, database=TEXT)
def test_an_escaped_uri_is_read_exactly_as_libpq_reads_it(user, password, database):
    uri = f"postgresql://{quote(user, '')}:{quote(password, '')}@db/{quote(database, '')}"
    ours = params(uri)
    theirs = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.parse(uri.encode()) if o.val}
    assert ours == theirs


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_no_text_breaks_the_parser(text):
    found = refused = None
    try:
        found = target(text)
    except StepFailed as failed:
        refused = failed.failure.reason
    assert refused is Reason.CONNECTION_INVALID or (found and found.params["user"] and found.database)
