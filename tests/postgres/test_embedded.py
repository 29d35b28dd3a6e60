"""The embedded PostgreSQL: the ground that every test of the database stands on."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from godwit.cli.embedded import EmbeddedPostgres, EmbeddedPostgresError


@pytest.fixture
def folder(server_folder: Path, request: pytest.FixtureRequest) -> Path:
    return server_folder / request.node.name.removeprefix("test_")[:30]


def processes_below(folder: Path) -> list[int]:
    """Process ids whose working directory lies in `folder`, as those of a server's processes do."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if folder in (entry / "cwd").readlink().parents:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_starts_answers_and_leaves_no_process(folder):
    with EmbeddedPostgres(folder, durable=False) as server:
        assert server.psql("SELECT 6 * 7") == "42"
        assert server.pid in processes_below(folder)
        port = server.port
    assert server.pid is None
    assert processes_below(folder) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_runs_as_an_unprivileged_user(postgres_server):
    assert os.stat(f"/proc/{postgres_server.pid}").st_uid != 0  # noqa: PTH116 - a process, not a file


def test_keeps_data_and_port_over_a_restart(folder):
    with EmbeddedPostgres(folder, durable=False) as server:
        port = server.port
        server.psql("CREATE TABLE kept AS SELECT 1 AS n")
        server.restart()
        assert (server.port, server.psql("TABLE kept")) == (port, "1")


def test_recovers_committed_rows_after_a_crash(folder):
    with EmbeddedPostgres(folder) as server:
        before = server.pid
        server.psql("CREATE TABLE kept AS SELECT 1 AS n")
        server.restart(crash=True)
        assert server.psql("TABLE kept") == "1"
        assert server.pid != before
        assert "not properly shut down" in server.log_file.read_text()


def test_a_second_object_finds_and_stops_the_running_server(folder):
    first = EmbeddedPostgres(folder, durable=False).start()
    second = EmbeddedPostgres(folder, durable=False).start()
    assert (second.pid, second.port) == (first.pid, first.port)
    second.stop()
    assert first.pid is None
    first.stop()  # nothing left to do; takes leave of the child process
    assert processes_below(folder) == []


def test_stopping_twice_or_before_the_first_start_is_nothing(folder):
    server = EmbeddedPostgres(folder, durable=False)
    server.stop()
    with server:
        pass
    server.stop()
    assert server.pid is None


def test_two_servers_run_side_by_side(folder, postgres_server):
    with EmbeddedPostgres(folder, durable=False) as other:
        assert other.port != postgres_server.port
        assert other.psql("SHOW data_directory") != postgres_server.psql("SHOW data_directory")


def test_a_password_is_asked_for_when_one_was_set(folder):
    with EmbeddedPostgres(folder, durable=False, password="it's: a/secret") as server:
        assert server.psql("SELECT 1") == "1"
        environment = server.environment()
        psql = [str(server.bin_dir / "psql"), "-XtAc", "SELECT 1"]
        by_uri = subprocess.run(
            [*psql[:2], "SELECT 1", server.uri()], capture_output=True, text=True, check=False
        )
        wrong = environment | {"PGPASSWORD": "wrong"}
        refused = subprocess.run(psql, env=wrong, capture_output=True, text=True, check=False)
    assert by_uri.stdout == "1\n"
    assert refused.returncode == 2
    assert "password authentication failed" in refused.stderr


def test_answers_on_its_unix_socket(postgres_server):
    environment = postgres_server.environment() | {"PGHOST": str(postgres_server.socket_dir)}
    psql = [str(postgres_server.bin_dir / "psql"), "-XtAc", "SELECT inet_server_addr() IS NULL"]
    assert subprocess.run(psql, env=environment, capture_output=True, text=True, check=True).stdout == "t\n"


def test_a_path_too_long_for_a_socket_still_serves_tcp(server_folder):
    deep = server_folder / ("long-" * 20)
    with EmbeddedPostgres(deep, durable=False) as server:
        assert server.socket_dir is None
        assert server.psql("SELECT 1") == "1"


def test_a_setting_that_is_wrong_is_told_with_the_servers_own_words(folder):
    with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
        EmbeddedPostgres(folder, durable=False, settings={"no_such_setting": "1"}).start()
    assert processes_below(folder) == []


def test_a_failing_statement_is_told_with_the_servers_own_words(postgres_server):
    with pytest.raises(EmbeddedPostgresError, match="division by zero"):
        postgres_server.psql("SELECT 1 / 0")


def test_a_port_that_is_taken_is_passed_over(folder):
    first = EmbeddedPostgres(folder / "first", durable=False)
    second = EmbeddedPostgres(folder / "second", durable=False)
    folder.mkdir(mode=0o755)
    with first, second:
        assert first.port != second.port


def test_a_fresh_database_is_empty_and_its_dump_is_stable(database):
    database.psql("CREATE TABLE t (id serial PRIMARY KEY, v text); INSERT INTO t (v) VALUES ('b'), ('a')")
    before = database.dump()
    database.psql("BEGIN; INSERT INTO t (v) VALUES ('lost'); ROLLBACK; UPDATE t SET v = v")
    assert database.dump() == before
    database.psql("DELETE FROM t WHERE v = 'a'")
    assert database.dump() != before


def test_a_role_is_no_superuser(database, role):
    app = role("app", owns=True)
    assert database.psql(f"SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = '{app}'") == "f|f"
    assert (
        database.psql(
            f"SELECT pg_get_userbyid(datdba) = '{app}' FROM pg_database WHERE datname = current_database()"
        )
        == "t"
    )
    maker = role("maker", createdb=True)
    assert database.psql(f"SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = '{maker}'") == "f|t"
