"""The step's process and its engine against PostgreSQL alone: no cluster."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from socket import create_connection, create_server, socket
from typing import Any

import pytest

from godwit.cli.embedded import EmbeddedPostgres
from godwit.contract.base import canonical_json
from godwit.contract.environment import (
    DATABASE_URI_VAR,
    OUTCOME_FILE_VAR,
    REQUEST_FILE_VAR,
    SCRATCH_DIR_VAR,
    SOURCE_DIR_VAR,
)
from godwit.contract.outcome import ApplyOutcome, PlanOutcome, StepOutcome
from godwit.contract.policy import Environment, Policy
from godwit.contract.request import (
    ApplyInput,
    CheckInput,
    Direction,
    ObjectRef,
    PlanInput,
    PlanRef,
    StepRequest,
    VerbInput,
    VerifyInput,
)

RUNS = 5
MIGRATIONS = 100
POLICY = Policy(environment=Environment.PRODUCTION)


class Relay:
    """A port before the server that notes when the server's first byte came."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.first_byte = 0.0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = create_connection(("127.0.0.1", self._port))
            for source, target, note in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._copy, args=(source, target, note), daemon=True).start()

    def _copy(self, source: socket, target: socket, note: bool) -> None:
        try:
            while data := source.recv(65536):
                if note and not self.first_byte:
                    self.first_byte = time.monotonic()
                target.sendall(data)
        except OSError:
            return
        finally:
            source.close()


class Runner:
    """Step processes as a Job's pod starts them, from compiled modules as in the image."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.source = folder / "migrations"
        (folder / "scratch").mkdir()
        self.source.mkdir()

    def run(self, uri: str, *verbs: VerbInput, step: str = "check") -> tuple[StepOutcome, float, float]:
        """Its outcome, and by `time.monotonic` when the process was started and when it ended."""
        request = StepRequest(
            object=ObjectRef(kind="MigrationRun", namespace="bench", name="run", uid=step),
            step=step,
            operation=step,
            environment=POLICY.environment,
            verbs=verbs,
        )
        (self._folder / "request.json").write_bytes(canonical_json(request))
        environ = os.environ | {
            REQUEST_FILE_VAR: str(self._folder / "request.json"),
            OUTCOME_FILE_VAR: str(self._folder / "outcome.json"),
            SOURCE_DIR_VAR: str(self.source),
            SCRATCH_DIR_VAR: str(self._folder / "scratch"),
            DATABASE_URI_VAR: uri,
            "PYTHONPYCACHEPREFIX": str(self._folder / "compiled"),
        }
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "godwit.runner"], env=environ, capture_output=True, check=False
        )
        ended = time.monotonic()
        assert done.returncode == 0, done.stderr.decode()
        outcome = StepOutcome.decode((self._folder / "outcome.json").read_bytes())
        assert outcome.failure is None, outcome.failure
        return outcome, started, ended


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


@pytest.fixture
def relay(postgres_server: EmbeddedPostgres) -> Iterator[Relay]:
    made = Relay(postgres_server.port)
    yield made
    made.close()


def test_start_of_a_step(runner: Runner, relay: Relay, database: Any, show: Any, spread: Any) -> None:
    uri = database.uri.replace(f":{database.server.port}/", f":{relay.port}/")
    assert uri != database.uri
    runner.run(uri, CheckInput())  # compiles
    first, whole, bare = [], [], []
    for _ in range(RUNS):
        began = time.monotonic()
        subprocess.run([sys.executable, "-P", "-c", "pass"], check=True)
        bare.append(time.monotonic() - began)
        relay.first_byte = 0.0
        _, started, ended = runner.run(uri, CheckInput())
        assert relay.first_byte > started
        first.append(relay.first_byte - started)
        whole.append(ended - started)
    show(
        f"Start of a step, seconds, {RUNS} times",
        [
            ("", "min", "median", "max"),
            ("Python alone, started and ended", *spread(bare)),
            ("Runner, until PostgreSQL's first byte", *spread(first)),
            ("Runner, a whole Check", *spread(whole)),
        ],
    )


def migrations() -> dict[str, str]:
    """Some of everything that teams write: tables, columns, indexes, keys, rows, a function."""
    found = {}
    for number in range(1, MIGRATIONS + 1):
        name = f"2026{number:010d}_step_{number}"
        match number % 4:
            case 1:
                sql = (
                    f"CREATE TABLE item_{number} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,\n"
                    "  name text NOT NULL, price numeric(10, 2), made timestamptz NOT NULL DEFAULT now());\n"
                    f"CREATE INDEX item_{number}_name ON item_{number} (name);\n"
                )
            case 2:
                sql = (
                    f"INSERT INTO item_{number - 1} (name, price)\n"
                    "  SELECT 'item ' || g, g FROM generate_series(1, 1000) g;\n"
                )
            case 3:
                sql = (
                    f"ALTER TABLE item_{number - 2} ADD COLUMN note text;\n"
                    f"ALTER TABLE item_{number - 2} ADD CONSTRAINT price_{number} CHECK (price >= 0);\n"
                )
            case _:
                sql = (
                    f"CREATE FUNCTION total_{number}() RETURNS numeric LANGUAGE sql STABLE AS\n"
                    f"  $$ SELECT coalesce(sum(price), 0) FROM item_{number - 3} $$;\n"
                    f"COMMENT ON FUNCTION total_{number}() IS 'Of all items; also of those without any.';\n"
                )
        found[name] = sql
    return found


def test_apply_of_many_migrations(
    runner: Runner,
    postgres_server: EmbeddedPostgres,
    database_on: Callable[..., Any],
    show: Any,
    spread: Callable[[Sequence[float]], Any],
) -> None:
    files = []
    for name, sql in migrations().items():
        (runner.source / name).mkdir()
        files.append(runner.source / name / "migration.sql")
        files[-1].write_text(sql)
    (runner.source / "migration_lock.toml").write_text('provider = "postgresql"\n')
    psql, plan, apply, process = [], [], [], []
    for _ in range(RUNS):
        by_psql, by_us = database_on(postgres_server), database_on(postgres_server)
        options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        # Each file in a transaction of its own, as the engine does it.
        each = [word for file in files for word in ("-c", "BEGIN", "-f", str(file), "-c", "COMMIT")]
        began = time.monotonic()
        postgres_server.run("psql", *options, *each, database=by_psql.name)
        psql.append(time.monotonic() - began)

        outcome, started, ended = runner.run(by_us.uri, PlanInput(policy=POLICY), step="plan")
        plan.append(ended - started)
        planned = outcome.get(PlanOutcome)
        assert planned is not None
        assert planned.pending == MIGRATIONS
        ref = PlanRef(
            content=planned.content,
            plan=planned.plan,
            direction=planned.direction or Direction.UP,
            from_state=planned.from_state,
            to_state=planned.to_state,
            target=planned.target,
        )
        outcome, started, ended = runner.run(
            by_us.uri, ApplyInput(plan=ref, policy=POLICY), VerifyInput(state=ref.to_state), step="apply"
        )
        process.append(ended - started)
        apply.append((outcome.ended_at - outcome.started_at).total_seconds())
        applied = outcome.get(ApplyOutcome)
        assert applied is not None
        assert applied.applied == MIGRATIONS
        assert _schema(by_us) == by_psql.dump(schema_only=True)
    ratios = [ours / theirs for ours, theirs in zip(apply, psql, strict=True)]
    show(
        f"{MIGRATIONS} migrations on an empty database, seconds, {RUNS} times",
        [
            ("", "min", "median", "max"),
            ("One psql session", *spread(psql)),
            ("Plan, the whole process", *spread(plan)),
            ("Apply and Verify, within the process", *spread(apply)),
            ("Apply and Verify, the whole process", *spread(process)),
            ("Apply and Verify to psql, ratio", *spread(ratios)),
        ],
    )


def _schema(database: Any) -> str:
    database.psql("DROP TABLE _prisma_migrations")
    text: str = database.dump(schema_only=True)
    return text
