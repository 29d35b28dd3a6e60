"""An embedded PostgreSQL: a real server and its client programs, for the demo and the tests.

The server listens on loopback TCP and, where the path is short enough, on a Unix socket in its folder.
PostgreSQL refuses to run as root (manual, section 19.1), so root starts it as an unprivileged user.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from godwit.cli.embedded_programs import (
    EmbeddedPostgresError,
    can_enter,
    credentials,
    programs,
    server_user,
)

HOST = "127.0.0.1"
SUPERUSER = "postgres"
BY_FILES = " STRATEGY FILE_COPY"
"""To copy a database by its files, which is not what PostgreSQL does by itself since 15."""

# Below Linux's ephemeral ports (32768 and up): a client that dials a stopped server's port can then never be
# given that very port as its own and so connect to itself.
_FIRST_PORT, _PORTS = 15432, 8000
# A socket's path has at most 107 bytes on Linux; the longest name that PostgreSQL puts there is this one.
_LONGEST_SOCKET_FOLDER = 107 - len("/.s.PGSQL.65535.lock")
_PATIENCE_S = 60.0
_POLL_S = 0.02

# How to stop a server: pg_ctl's names for the signals (manual, section 19.5).
StopMode = Literal["smart", "fast", "immediate"]
_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}


class EmbeddedPostgres:
    """One PostgreSQL server in one folder: the data in `data/`, its log in `server.log`.

    All methods block. `start` and `stop` are idempotent, also across processes: the server is known by the
    process id in `data/postmaster.pid`, so one program may start it and another stop it.

    Args:
        folder: where the server lives; made when it is missing, kept when the server stops.
        password: the superuser's; with one, every connection needs a password (scram-sha-256), without, none
            does. It counts when the folder is first initialised.
        durable: False turns off fsync and its kin: faster, and safe against a crash of the server but not of
            the machine (manual, section 14.5). For tests.
        settings: further PostgreSQL settings by name, for every start.

    """

    def __init__(
        self,
        folder: Path,
        *,
        password: str | None = None,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.data_dir = self.folder / "data"
        self.log_file = self.folder / "server.log"
        self.password = password
        self.durable = durable
        self.settings = dict(settings or {})
        self.run_as = server_user()
        self.bin_dir = programs(self.run_as)
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The TCP port, kept over restarts. Raises EmbeddedPostgresError before the first start."""
        if self._port is None:
            raise EmbeddedPostgresError(
                f"The server in {self.folder} has not been started; call start() first."
            )
        return self._port

    @property
    def socket_dir(self) -> Path | None:
        """The folder of the Unix socket, or None where its path would be too long for one."""
        return self.folder if len(os.fsencode(self.folder)) <= _LONGEST_SOCKET_FOLDER else None

    @property
    def pid(self) -> int | None:
        """The process id of the running server (its postmaster), or None when it does not run."""
        try:
            pid = int((self.data_dir / "postmaster.pid").read_text(encoding="ascii").split("\n", 1)[0])
            # The file outlives a crash and the number may be another process's by now: the postmaster's
            # working directory is its data directory.
            return pid if Path(f"/proc/{pid}/cwd").readlink() == self.data_dir.resolve() else None
        except (OSError, ValueError):
            return None

    def start(self) -> Self:
        """Initialise the folder if it is new, start the server if it does not run, wait until it answers."""
        if self.pid is not None:
            lines = (self.data_dir / "postmaster.pid").read_text(encoding="ascii").splitlines()
            self._port = int(
                lines[3]
            )  # as in the file's description in the source, miscadmin.h: LOCK_FILE_LINE_PORT
            self._await_ready()
            return self
        self._initialise()
        # Clients know the port of an earlier start, so that one is kept; a first start may take any.
        for port in [self._port] if self._port else _free_ports():
            self._port = port
            if self._launch():
                return self
            if "could not bind" not in self._log_tail():
                break
        raise EmbeddedPostgresError(
            f"PostgreSQL did not start in {self.folder}. Its log ends:\n{self._log_tail()}"
        )

    def stop(self, mode: StopMode = "fast") -> None:
        """End exactly this server and wait until it is gone. `immediate` is a crash."""
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, _SIGNALS[mode])
        process, self._process = self._process, None
        if process is not None:
            process.wait(_PATIENCE_S)
        self._until(lambda: self.pid is None, f"PostgreSQL (process {pid}) did not stop")

    def restart(self, *, crash: bool = False) -> None:
        """Stop and start again on the same port. With `crash` nothing is flushed; the start recovers."""
        self.stop("immediate" if crash else "fast")
        self.start()

    def __enter__(self) -> Self:
        """Start the server."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server; its folder stays."""
        self.stop()

    def uri(self, database: str = "postgres", *, user: str = SUPERUSER, password: str | None = None) -> str:
        """Return a libpq connection URI over TCP. The superuser's password is filled in, others' not."""
        secret = self.password if user == SUPERUSER and password is None else password
        login = quote(user, safe="") + (f":{quote(secret, safe='')}" if secret is not None else "")
        return f"postgresql://{login}@{HOST}:{self.port}/{quote(database, safe='')}"

    def environment(self, database: str = "postgres") -> dict[str, str]:
        """Return the environment in which PostgreSQL's programs reach `database` as superuser."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        kept |= {"PGHOST": HOST, "PGPORT": str(self.port), "PGUSER": SUPERUSER, "PGDATABASE": database}
        return kept | ({"PGPASSWORD": self.password} if self.password is not None else {})

    def run(self, program: str, *arguments: str, database: str = "postgres", stdin: str | None = None) -> str:
        """Run one of PostgreSQL's client programs on `database` as superuser and return what it prints.

        Raises EmbeddedPostgresError with the program's own message when it fails.
        """
        done = subprocess.run(
            [str(self.bin_dir / program), *arguments],
            env=self.environment(database),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"{program} failed on database {database}: {done.stderr.strip()}")
        return done.stdout

    def psql(self, sql: str, database: str = "postgres") -> str:
        """Run a script as superuser, each statement by itself; return its rows as lines of a|b|c."""
        options = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1")
        return self.run("psql", *options, database=database, stdin=sql).removesuffix("\n")

    def create_database(self, name: str, *, owner: str = SUPERUSER) -> None:
        """Create an empty database: where nothing is flushed, by copying files and not through the WAL.

        That is a third of the work, but it ends with a checkpoint (manual, CREATE DATABASE; PostgreSQL 15).
        """
        how = "" if self.durable else BY_FILES
        self.psql(f"CREATE DATABASE {_identifier(name)} OWNER {_identifier(owner)}{how}")

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, ending its sessions (DROP DATABASE ... FORCE, PostgreSQL 13)."""
        self.psql(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)")

    def create_role(self, name: str, *, createdb: bool = False, password: str | None = None) -> None:
        """Create a role that may log in, and nothing else but create databases where `createdb` says so."""
        secret = "" if password is None else " PASSWORD '" + password.replace("'", "''") + "'"
        self.psql(f"CREATE ROLE {_identifier(name)} LOGIN {'CREATEDB' if createdb else 'NOCREATEDB'}{secret}")

    def drop_role(self, name: str) -> None:
        """Drop a role if it exists. What it owns in other databases must be gone."""
        self.psql(f"DROP ROLE IF EXISTS {_identifier(name)}")

    def _initialise(self) -> None:
        """Make the data directory with initdb, beside its place, so that a crash leaves none half made."""
        if self.data_dir.exists():
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.run_as is not None:
            os.chown(self.folder, self.run_as.pw_uid, self.run_as.pw_gid)
            if not can_enter(self.run_as, self.folder):
                raise EmbeddedPostgresError(
                    f"PostgreSQL does not run as root, and the user {self.run_as.pw_name} cannot enter "
                    f"{self.folder}. Choose a folder that every user may reach, for example below /var/tmp."
                )
        unfinished = self.folder / f"data.{secrets.token_hex(4)}"
        arguments = ["--username", SUPERUSER, "--encoding", "UTF8", "--locale", "C", "-D", str(unfinished)]
        arguments += [] if self.durable else ["--no-sync"]
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as secret:
            arguments += ["--auth", "trust" if self.password is None else "scram-sha-256"]
            if self.password is not None:
                secret.write(self.password)
                secret.flush()
                if self.run_as is not None:
                    os.chown(secret.name, self.run_as.pw_uid, -1)
                arguments += ["--pwfile", secret.name]
            done = subprocess.run(
                [str(self.bin_dir / "initdb"), *arguments],
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
                env=_plain_environment(),
                **credentials(self.run_as),
            )
        if done.returncode != 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise EmbeddedPostgresError(f"initdb failed in {self.folder}: {done.stderr.strip()}")
        unfinished.rename(self.data_dir)

    def _launch(self) -> bool:
        """Start the server process on the chosen port; return whether it came up."""
        settings = {
            "listen_addresses": HOST,
            "port": str(self._port),
            "unix_socket_directories": str(self.socket_dir or ""),
            "unix_socket_permissions": "0700",
        }
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        command = [str(self.bin_dir / "postgres"), "-D", str(self.data_dir)]
        for name, value in (settings | self.settings).items():
            command += ["-c", f"{name}={value}"]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_plain_environment(),
                start_new_session=True,  # Ctrl-C goes to the program that started it, which then stops it
                **credentials(self.run_as),
            )
        try:
            self._await_ready()
        except ChildProcessError:
            self._process = None
            return False
        return True

    def _await_ready(self) -> None:
        """Wait until the server accepts connections. Raises ChildProcessError when it ended instead."""

        def ready() -> bool:
            if self._process is not None and self._process.poll() is not None:
                raise ChildProcessError
            probe = [str(self.bin_dir / "pg_isready"), "--quiet", "--host", HOST, "--port", str(self.port)]
            # A port that answers proves nothing while the process is not ours.
            return self.pid is not None and subprocess.run(probe, check=False).returncode == 0

        self._until(ready, "PostgreSQL did not become ready")

    def _until(self, holds: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not holds():
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"{complaint} within {_PATIENCE_S:.0f} s in {self.folder}. Its log ends:\n"
                    + self._log_tail()
                )
            time.sleep(_POLL_S)

    def _log_tail(self) -> str:
        try:
            return "\n".join(self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        except OSError:
            return "(no log)"


def _free_ports() -> Iterator[int]:
    """Yield ports on which nothing listens now, each process beginning at another one."""
    for step in range(_PORTS):
        port = _FIRST_PORT + (os.getpid() + step) % _PORTS
        with socket.socket() as probe:
            # As the server does, so that connections of an earlier server that linger do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                probe.listen()
                probe.close()
                yield port


def _plain_environment() -> dict[str, str]:
    """Return the server's environment: nothing of the caller's but the path; messages in English."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
