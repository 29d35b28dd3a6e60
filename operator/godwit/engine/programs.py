"""pg_dump and pg_restore as child processes: where they are, how they reach the database, what they said.

No secret is in their arguments: everything about the connection goes through libpq's environment variables
(PostgreSQL manual, section 34.15).
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from psycopg import pq

from godwit.contract.environment import PG_BIN_VAR
from godwit.contract.reasons import Reason
from godwit.engine.context import StepContext
from godwit.engine.errors import fail
from godwit.engine.redact import redact

CHUNK = 1 << 20
_STDERR_LIMIT = 800


def program(ctx: StepContext, name: str) -> str:
    """The command of one of PostgreSQL's client programs."""
    folder = ctx.environ.get(PG_BIN_VAR, "")
    return str(Path(folder) / name) if folder else name


def version(ctx: StepContext, name: str) -> str:
    """The program's version, for example `16.4`. Raises StepFailed(InternalError) where it is missing."""
    try:
        done = subprocess.run(
            [program(ctx, name), "--version"],
            capture_output=True,
            text=True,
            check=True,
            env=bare_environment(ctx),
        )
    except (OSError, subprocess.CalledProcessError):
        raise fail(
            Reason.INTERNAL_ERROR, f"{name} cannot be run: it is missing in the step's image."
        ) from None
    found = re.search(r"\(PostgreSQL\) (\S+)", done.stdout)
    return found[1] if found else done.stdout.strip()


def major(text: str) -> int:
    """The major version in `16.4`, `17rc1`, `18devel`."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def environment(ctx: StepContext, database: str | None = None) -> dict[str, str]:
    """The environment of libpq for the step's target, or for another *database* of its server."""
    params = dict(ctx.target.params) | ({"dbname": database} if database is not None else {})
    params["application_name"] = ctx.application_name
    # pg_dump and pg_restore set their own search_path, timeouts and role. And they keep the database's own
    # encoding: not every byte that it holds has a counterpart in another.
    for own in ("options", "client_encoding"):
        params.pop(own, None)
    variables = {o.keyword.decode(): o.envvar for o in pq.Conninfo.get_defaults()}
    env = bare_environment(ctx)
    for keyword, value in params.items():
        variable = variables.get(keyword)
        if variable:
            env[variable.decode()] = value
        elif keyword == "sslpassword":
            raise fail(
                Reason.CONNECTION_INVALID,
                "The connection's parameter sslpassword cannot be handed to pg_dump without showing it.",
                hint="Give sslkey without a passphrase.",
            )
    return env


def bare_environment(ctx: StepContext) -> dict[str, str]:
    """The step's environment without its secrets, and without settings of libpq that are not its own."""
    kept = {k: v for k, v in ctx.environ.items() if not k.startswith(("PG", "GODWIT_"))}
    return kept | {"LC_ALL": "C"}


@contextmanager
def running(
    ctx: StepContext,
    arguments: list[str],
    env: dict[str, str],
    *,
    stdin: bool = False,
    stdout: bool = False,
) -> Iterator["Child"]:
    """A child process for the block; it is terminated when the step is told to end, and with the block."""
    with tempfile.TemporaryFile(dir=ctx.scratch_dir) as stderr:
        process = subprocess.Popen(
            [program(ctx, arguments[0]), *arguments[1:]],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
            stderr=stderr,
            env=env,
        )
        child = Child(process, stderr)
        try:
            with ctx.cancelled.stopping(process.terminate):
                yield child
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


class Child:
    """A running program."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
        self._process = process
        self._stderr = stderr

    def chunks(self) -> Iterator[bytes]:
        """What it prints, to the end."""
        output = self._process.stdout
        while output is not None and (data := output.read(CHUNK)):
            yield data

    def feed(self, data: bytes) -> bool:
        """Hand it *data*; False when it does not read any more."""
        if self._process.stdin is None:
            return False
        try:
            self._process.stdin.write(data)
        except BrokenPipeError:
            return False
        return True

    def finish(self) -> int:
        """Wait for its end and return its exit status."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        return self._process.wait()

    def complaint(self) -> str:
        """The end of what it said on standard error, for people: no secrets, no DETAIL."""
        return readable(self.errors())

    def errors(self) -> str:
        """All that it said on standard error."""
        os.lseek(self._stderr.fileno(), 0, os.SEEK_SET)
        return self._stderr.read().decode("utf-8", "replace")


def readable(text: str) -> str:
    """The end of a client program's messages, without what quotes row data or whole commands."""
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip()
        and not re.match(r"\s*(pg_\w+: )?(detail|DETAIL|CONTEXT|Command was|LINE \d+)\b", line)
    ]
    return redact("; ".join(lines))[-_STDERR_LIMIT:]
