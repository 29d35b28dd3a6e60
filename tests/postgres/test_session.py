"""Connecting to real servers: the right one, directly, with everything in force, or a reason why not."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from godwit.cli.embedded import EmbeddedPostgres
from godwit.contract.environment import DATABASE_URI_VAR
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.policy import Pooler
from godwit.contract.reasons import Reason
from godwit.contract.request import Connection
from godwit.engine.errors import StepFailed, from_postgres
from godwit.engine.session import Session, open_session
from godwit.engine.uri import Target, parse_target

PASSWORD = "hunter2"


def target(uri: str) -> Target:
    return parse_target(Connection(), {DATABASE_URI_VAR: uri})


def connect(
    to: Target | str, connection: Connection | None = None, *, writing: bool = True, **options: Any
) -> contextlib.closing[Session]:
    session = open_session(
        target(to) if isinstance(to, str) else to,
        connection or Connection(),
        **({"application_name": "godwit test", "expected": None, "writing": writing} | options),
    )
    return contextlib.closing(session)


def refused(to: Target | str, connection: Connection | None = None, **options: Any):
    with pytest.raises(StepFailed) as raised, connect(to, connection, **options):
        pass
    failure = raised.value.failure
    assert PASSWORD not in failure.model_dump_json()
    assert failure.standing
    return failure


def show(session: Session, *names: str) -> list[str]:
    return [session.execute("SELECT current_setting(%s)", [name]).fetchone()[0] for name in names]


def test_a_session_knows_where_it_is(database):
    with connect(database.uri) as session:
        system, oid = session.execute(
            "SELECT system_identifier::text, (SELECT oid FROM pg_database WHERE datname = current_database())"
            " FROM pg_control_system()"
        ).fetchone()
        assert (session.identity.system_identifier, session.identity.database_oid) == (system, oid)
        assert (session.identity.name, session.identity.port) == (database.name, database.server.port)
        assert session.server_version == int(database.psql("SHOW server_version_num"))
        assert session.backend_pid == session.execute("SELECT pg_backend_pid()").fetchone()[0]
        assert show(session, "application_name") == ["godwit test"]


def test_a_session_has_prismas_search_path_and_its_own_limits(database):
    database.psql(f"ALTER DATABASE {database.name} SET statement_timeout = '1s'")
    with connect(database.uri + "?schema=My%20%22App%22") as session:
        assert show(session, "search_path", "lock_timeout", "statement_timeout") == [
            '"My ""App"""',
            "2s",
            "0",
        ]
        assert show(session, "client_connection_check_interval", "default_transaction_read_only") == [
            "2s",
            "off",
        ]
        session.execute("RESET ALL")
        assert show(session, "search_path", "lock_timeout") == ['"My ""App"""', "2s"]


def test_the_uris_own_options_stay(database):
    with connect(database.uri + "?options=-c%20work_mem%3D9MB") as session:
        assert show(session, "work_mem", "lock_timeout") == ["9MB", "2s"]


def test_a_session_that_only_reads_cannot_write(database):
    with (
        connect(database.uri, writing=False) as session,
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
    ):
        session.execute("CREATE TABLE a ()")


def test_another_database_of_the_same_cluster_is_reached_by_name(database):
    with (
        connect(database.uri) as here,
        connect(database.uri, database="postgres", expected=here.identity) as there,
    ):
        assert there.identity.name == "postgres"
        assert there.identity.system_identifier == here.identity.system_identifier
        assert not there.identity.same_database(here.identity)


def test_another_database_than_planned_is_refused(database):
    with connect(database.uri) as session:
        planned = session.identity
    with connect(database.uri, expected=planned.model_copy(update={"host": "other", "name": "x"})) as session:
        assert session.identity.same_database(planned)
    for other in ({"database_oid": 1}, {"system_identifier": "1"}):
        failure = refused(database.uri, expected=planned.model_copy(update=other))
        assert failure.reason is Reason.DATABASE_CHANGED
        assert planned.key in failure.message
    foreign = DatabaseIdentity(system_identifier="1", database_oid=5)
    assert refused(database.uri, expected=foreign, database="postgres").reason is Reason.DATABASE_CHANGED


def test_a_role_is_in_force_from_the_start_and_survives_reset(database, role):
    team, login = role("team"), role("login")
    database.psql(f"GRANT {team} TO {login}")
    with connect(database.uri_as(login), Connection(role=team)) as session:
        session.execute("RESET ALL")
        assert session.execute("SELECT current_user, session_user").fetchone() == (team, login)


def test_a_role_that_cannot_be_taken_is_refused(database, role):
    team, login = role("team"), role("login")
    for name in (team, "nobody_at_all"):
        failure = refused(database.uri_as(login), Connection(role=name))
        assert failure.reason is Reason.ROLE_REFUSED
        assert name in failure.message


def test_a_database_that_is_not_there_is_missing(database):
    failure = refused(database.uri.replace(database.name, "no_such_database"))
    assert failure.reason is Reason.DATABASE_MISSING
    assert "no_such_database" in failure.message


def test_a_database_that_may_not_be_entered_is_a_missing_right(database, role):
    login = role("login")
    database.psql(f"REVOKE CONNECT ON DATABASE {database.name} FROM PUBLIC")
    assert refused(database.uri_as(login)).reason is Reason.PERMISSION_DENIED


def test_a_database_that_is_fenced_does_not_answer(database):
    database.server.psql(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
    assert refused(database.uri).reason is Reason.DATABASE_UNREACHABLE


def test_a_port_where_nobody_listens_and_a_name_that_nobody_has_are_unreachable(database):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = target(database.uri)
        silent = replace(base, params={**base.params, "port": str(free.getsockname()[1])})
        assert refused(silent).reason is Reason.DATABASE_UNREACHABLE
    unknown = replace(base, params={**base.params, "host": "no-such-host.invalid"})
    assert refused(unknown).reason is Reason.DATABASE_UNREACHABLE


def test_a_session_whose_server_process_ends_is_a_lost_connection(database):
    with connect(database.uri) as session:
        database.psql(f"SELECT pg_terminate_backend({session.backend_pid}, 5000)")
        for _ in range(2):  # what ended it, and then what is no longer there
            with pytest.raises(psycopg.Error) as raised:
                session.execute("SELECT 1")
            failure = from_postgres(raised.value, default=Reason.MIGRATION_FAILED).failure
            assert failure.reason is Reason.CONNECTION_LOST


def test_an_error_keeps_message_and_hint_and_leaves_row_data_out(database):
    database.psql("CREATE TABLE a (b text PRIMARY KEY); INSERT INTO a VALUES ('hunter2')")
    with connect(database.uri) as session, pytest.raises(psycopg.Error) as raised:
        session.execute("INSERT INTO a VALUES ('hunter2')")
    failure = from_postgres(raised.value, default=Reason.MIGRATION_FAILED, file="f", line=3).failure
    assert (failure.reason, failure.sqlstate, failure.line) == (Reason.MIGRATION_FAILED, "23505", 3)
    assert "a_pkey" in failure.message
    assert PASSWORD not in failure.model_dump_json()


@pytest.fixture(scope="module")
def guarded(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A server that asks for passwords."""
    with EmbeddedPostgres(server_folder / "guarded", password=PASSWORD, durable=False) as server:
        yield server


def test_a_password_is_asked_for_and_a_wrong_one_refused(guarded):
    base = target(guarded.uri("postgres"))
    with connect(base) as session:
        assert session.identity.name == "postgres"
    without = {key: value for key, value in base.params.items() if key != "password"}
    for params in ({**base.params, "password": "wrong"}, {**base.params, "user": "stranger"}, without):
        assert refused(replace(base, params=params)).reason is Reason.AUTHENTICATION_FAILED


def test_a_standby_is_refused(server_folder):
    server = EmbeddedPostgres(server_folder / "standby", durable=False)
    server.start()
    server.stop()
    (server.data_dir / "standby.signal").touch()
    with server:
        failure = refused(server.uri("postgres"))
    assert failure.reason is Reason.STANDBY_REFUSED


class Pooled:
    """What a pooler does to a connection's start: other process id, startup options not passed on."""

    def __init__(self, server: EmbeddedPostgres, *, own_pid: bool, drop_options: bool) -> None:
        self.server, self.own_pid, self.drop_options = server, own_pid, drop_options
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.threads: list[threading.Thread] = []
        self.sockets = [self.listener]

    def uri(self, database: str) -> str:
        port = self.listener.getsockname()[1]
        return f"postgresql://postgres@127.0.0.1:{port}/{database}?sslmode=disable&gssencmode=disable"

    def __enter__(self) -> Self:
        self._thread(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
        for each in self.sockets:
            each.close()

    def _thread(self, function, *args) -> None:
        thread = threading.Thread(target=function, args=args)
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.server.port))
                self.sockets += [client, server]
                self._thread(self._up, client, server)
                self._thread(self._down, server, client)

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with client.makefile("rb") as stream:
            (length,) = struct.unpack("!i", stream.read(4))
            startup = stream.read(length - 4)
            fields = startup[4:].split(b"\0")[:-2]
            pairs = dict(zip(fields[::2], fields[1::2], strict=True))
            if self.drop_options:
                pairs.pop(b"options", None)
            body = startup[:4] + b"".join(k + b"\0" + v + b"\0" for k, v in pairs.items()) + b"\0"
            server.sendall(struct.pack("!i", len(body) + 4) + body)
            self._copy(stream, server)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with server.makefile("rb") as stream:
            while kind := stream.read(1):
                (length,) = struct.unpack("!i", stream.read(4))
                body = stream.read(length - 4)
                if kind == b"K" and self.own_pid:
                    body = struct.pack("!i", 4711) + body[4:]
                client.sendall(kind + struct.pack("!i", length) + body)
                if kind == b"Z":
                    break
            self._copy(stream, client)

    @staticmethod
    def _copy(stream, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := stream.read1(65_536):
                to.sendall(data)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(("own_pid", "drop_options"), [(True, False), (False, True)])
def test_each_probe_alone_finds_a_pooler(database, own_pid, drop_options):
    with Pooled(database.server, own_pid=own_pid, drop_options=drop_options) as pooler:
        assert refused(pooler.uri(database.name)).reason is Reason.POOLER_REFUSED


def test_a_connection_that_is_only_passed_on_is_no_pooler(database):
    with (
        Pooled(database.server, own_pid=False, drop_options=False) as proxy,
        connect(proxy.uri(database.name)) as session,
    ):
        assert session.identity.name == database.name


def test_a_declared_session_pooler_is_used_with_everything_in_force(database, role):
    team = role("team")
    declared = Connection(pooler=Pooler.SESSION, role=team)
    with Pooled(database.server, own_pid=True, drop_options=True) as pooler:
        with connect(pooler.uri(database.name), declared) as session:
            assert show(session, "search_path", "lock_timeout", "role") == ['"public"', "2s", team]
        failure = refused(pooler.uri(database.name), declared.model_copy(update={"role": "nobody_at_all"}))
        assert failure.reason is Reason.ROLE_REFUSED


def test_a_uri_that_says_pgbouncer_is_refused_unless_a_session_pooler_is_declared(database):
    assert refused(database.uri + "?pgbouncer=true").reason is Reason.POOLER_REFUSED
    with connect(database.uri + "?pgbouncer=true", Connection(pooler=Pooler.SESSION)) as session:
        assert session.identity.name == database.name


def test_a_session_that_was_stopped_between_two_queries_still_cleans_up(database):
    with connect(database.uri) as session:
        session.stop()

        # Longer than a script that catches its cancel is given.
        row = session.execute("SELECT 'cleaned' FROM pg_sleep(2.5)").fetchone()

        assert row == ("cleaned",)
