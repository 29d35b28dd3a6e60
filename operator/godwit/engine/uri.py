"""Where to connect: a libpq URI, a libpq keyword string, a Prisma URI, or parts, made into libpq's keywords.

libpq is always handed keywords, never a URI: the two read the same text differently (an unescaped `@` in a
password, a `%` that escapes nothing), and libpq refuses Prisma's own parameters.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import psycopg
from psycopg import pq

from godwit.contract.environment import DATABASE_PASSWORD_VAR, DATABASE_URI_VAR, DATABASE_USER_VAR
from godwit.contract.reasons import Reason
from godwit.contract.request import Connection
from godwit.engine.errors import StepFailed, fail

DEFAULT_SCHEMA: Final = "public"
"""Prisma's schema where the URI names none."""

_DROPPED: Final = frozenset(
    {
        "connection_limit",
        "max_connection_lifetime",
        "max_idle_connection_lifetime",
        "pool_timeout",
        "single_use_connections",
        "socket_timeout",
        "statement_cache_size",
    }
)
"""Prisma's parameters about its own connection pool; a step has one connection."""

_PRISMA_ONLY: Final = _DROPPED | {"pgbouncer", "schema", "sslaccept", "sslidentity"}
_OURS: Final = frozenset({"replication", "client_encoding"})
"""libpq keywords that would break what a step relies on."""


_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where Debian, Fedora, SUSE and Alpine keep the authorities that the machine trusts."""


@dataclass(frozen=True)
class Target:
    """A database's address. `params` are libpq keywords, the password among them, so they are not shown."""

    params: Mapping[str, str] = field(repr=False)
    schema: str = DEFAULT_SCHEMA
    pgbouncer: bool = False
    """Whether the URI says (`pgbouncer=true`) that it leads to a transaction pooler."""

    @property
    def database(self) -> str:
        """The database's name."""
        return self.params["dbname"]

    @property
    def password(self) -> str:
        """The password, or nothing."""
        return self.params.get("password", "")


def parse_target(connection: Connection, environ: Mapping[str, str]) -> Target:
    """The address in *environ*'s URI variable, else in *connection*'s parts; credentials from *environ*.

    The schema is the URI's `schema`, else the first of `connection.schemas`. Raises StepFailed
    (ConnectionInvalid); its message names the parameter and never shows a value that may be secret.
    """
    text = environ.get(DATABASE_URI_VAR, "").strip()
    schema = connection.schemas[0] if connection.schemas else DEFAULT_SCHEMA
    if not text:
        target = Target(_from_parts(connection, environ), schema)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        target = _from_uri(text, schema)
    else:
        target = Target(_from_keywords(text), schema)
    for key, name in (("dbname", "database"), ("user", "user")):
        if not target.params.get(key):
            raise _invalid(f"The connection names no {name}.")
    if target.params.get("sslrootcert") == "system":
        target = replace(target, params={**target.params, **_system_roots(environ)})
    values = (*target.params.values(), target.schema)
    if any("\0" in value for value in values):
        raise _invalid("The connection holds a NUL character.")
    if any("\ud800" <= character <= "\udfff" for value in values for character in value):
        # What Python makes of bytes in the environment that are no UTF-8; libpq is given UTF-8 only.
        raise _invalid("The connection's user, password or address is not UTF-8.")
    return target


def _system_roots(environ: Mapping[str, str]) -> dict[str, str]:
    """The machine's own authorities as a file: the OpenSSL that psycopg brings knows no place of them.

    As libpq's own `system` (PostgreSQL manual, section 32.1.2, sslrootcert) it asks for verify-full.
    """
    files = [environ.get("SSL_CERT_FILE", ""), *_BUNDLES]
    found = next((file for file in files if file and Path(file).is_file()), None)
    return {"sslrootcert": found or "system", "sslmode": "verify-full"}


def _from_parts(connection: Connection, environ: Mapping[str, str]) -> dict[str, str]:
    if not connection.host:
        raise _invalid("The connection has neither a URI nor a host.")
    # Secrets are often made from files, whose last line ends with a newline that is no part of the password.
    parts = {
        "host": connection.host,
        "port": str(connection.port),
        "dbname": connection.database,
        "user": environ.get(DATABASE_USER_VAR, "").strip(),
        "password": environ.get(DATABASE_PASSWORD_VAR, "").rstrip("\r\n"),
        "sslmode": connection.sslmode,
    }
    return {key: value for key, value in parts.items() if value}


def _from_keywords(text: str) -> dict[str, str]:
    try:
        options = pq.Conninfo.parse(text.encode())
    except (psycopg.Error, UnicodeError) as exc:
        # libpq quotes the text near the error, which may be the password: alone, where a Secret's other key
        # was meant, or the rest of one that has a space.
        unknown = re.search(r'invalid connection option "(\w+)"', str(exc))
        named = f": it knows no parameter {unknown[1]}" if unknown and _resembles(unknown[1]) else ""
        raise _invalid(f"libpq cannot read the connection's keyword string{named}.") from None
    params = {o.keyword.decode(): o.val.decode() for o in options if o.val}
    _refuse_unknown(params)
    return params


def _from_uri(text: str, schema: str) -> Target:
    scheme, rest = text.split("://", 1)
    if scheme.lower() not in {"postgres", "postgresql"}:
        what = "Prisma's proxies are no database" if scheme.startswith("prisma") else "it is not PostgreSQL's"
        raise _invalid(
            f"The URI's scheme {scheme}:// cannot be used: {what}. Give the direct postgresql:// URI."
        )
    address, _, query = rest.partition("?")
    authority, _, database = address.partition("/")
    userinfo, at, hosts = authority.rpartition("@")
    user, _, password = userinfo.partition(":") if at else ("", "", "")
    given = _query(query)
    host, port = _hosts(hosts)
    params = {
        "host": host,
        "port": port,
        "user": _decoded(user, "user"),
        "password": _decoded(password, "password"),
        "dbname": _decoded(database, "database"),
    }
    params = {key: value for key, value in params.items() if value}
    params |= _translated(given)
    return Target(params, given.get("schema") or schema, pgbouncer=given.get("pgbouncer") == "true")


def _query(query: str) -> dict[str, str]:
    """The URI's parameters. A plus is a space to Prisma, itself to libpq; Prisma's own parameters tell."""
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    prisma = any(key in _PRISMA_ONLY for key, _, _ in pairs)
    return {
        _decoded(key, "parameter"): _decoded(value.replace("+", " ") if prisma else value, _called(key))
        for key, _, value in pairs
    }


def _hosts(text: str) -> tuple[str, str]:
    """Hosts and ports, each list joined by commas as libpq wants it (PostgreSQL manual, section 32.1.1.3)."""
    hosts, ports = [], []
    for item in text.split(","):
        found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d*))?", item)
        if not found:
            raise _invalid("The URI's host and port cannot be read.")
        hosts.append(_decoded(found[1].removeprefix("[").removesuffix("]"), "host"))
        ports.append(found[2] or "")
    return ",".join(hosts).strip(","), ",".join(ports) if any(ports) else ""


def _translated(given: Mapping[str, str]) -> dict[str, str]:
    """A URI's parameters as libpq's keywords: Prisma's translated or dropped, others refused by name."""
    params = {key: value for key, value in given.items() if key not in _PRISMA_ONLY}
    if "sslidentity" in given:
        raise _invalid(
            "The URI's parameter sslidentity names a PKCS#12 file; give sslcert and sslkey in PEM form."
        )
    if params.pop("ssl", "") == "true":  # JDBC's spelling, which libpq reads the same way
        params.setdefault("sslmode", "require")
    if "sslcert" in params and "sslkey" not in params:
        # In Prisma sslcert is the server's authority; in libpq it is the client's and never without sslkey.
        if "sslrootcert" in params:
            raise _invalid(
                "The URI has sslcert and sslrootcert but no sslkey: it is not clear what sslcert is."
            )
        params["sslrootcert"] = params.pop("sslcert")
        if given.get("sslaccept") == "accept_invalid_certs":
            # Said, not merely the default: libpq would hold the server to an authority that it knows.
            del params["sslrootcert"]
    accept = given.get("sslaccept", "accept_invalid_certs")
    if accept == "strict":
        params["sslmode"] = "verify-full"
        params.setdefault("sslrootcert", "system")
    elif accept != "accept_invalid_certs":
        raise _invalid("The URI's parameter sslaccept is neither strict nor accept_invalid_certs.")
    _refuse_unknown(params)
    return params


def _refuse_unknown(params: Mapping[str, str]) -> None:
    for key in params:
        if key not in _libpq_keywords() or key in _OURS:
            raise _invalid(f"The connection's {_called(key)} is not known, or cannot be used here.")


def _called(key: str) -> str:
    """How a message names a URI's parameter: one that is like none may be the rest of a password with a ?."""
    return f"parameter {key}" if _resembles(key) else "parameter (what follows a ? that is not written %3F)"


def _resembles(key: str) -> bool:
    """Whether *key* is a parameter's name, or one with a mistake in it."""
    return bool(get_close_matches(key.lower(), {*_libpq_keywords(), *_PRISMA_ONLY}, 1, cutoff=0.75))


@cache
def _libpq_keywords() -> frozenset[str]:
    return frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())


def _decoded(text: str, what: str) -> str:
    """Percent-decoded as browsers do: a `%` that escapes nothing stays."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _invalid(f"The URI's {what} is not UTF-8 once its percent signs are decoded.") from None


def _invalid(message: str) -> StepFailed:
    return fail(Reason.CONNECTION_INVALID, message, standing="Nothing was tried.")
