"""Real step processes against a real server, cut off where it was asked for, and what they leave behind."""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from launcher import Launcher, Step
from plans import ref_of

from godwit.cli.embedded import EmbeddedPostgres
from godwit.contract.base import canonical_json
from godwit.contract.environment import DATABASE_URI_VAR, OUTCOME_FILE_VAR, REQUEST_FILE_VAR, SOURCE_DIR_VAR
from godwit.contract.outcome import StepOutcome
from godwit.contract.policy import Environment, Policy
from godwit.contract.request import (
    ApplyInput,
    Format,
    ObjectRef,
    PlanInput,
    PlanRef,
    RevertInput,
    RevertScope,
    StepRequest,
    VerbInput,
    VerifyInput,
)
from godwit.engine.context import StepContext
from godwit.engine.plan import plan_verb
from godwit.engine.source import read_source
from godwit.runner.log import JsonLog, redactor

from .folders import Migration
from .proxy import Cut, Proxy

PATIENCE_S = 60
# A session that just begins has locks already, and is not in pg_stat_activity yet.
_LEFT = """
SELECT pid, state, query FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND usesysid IS NOT NULL
UNION ALL
SELECT l.pid, l.mode, l.locktype FROM pg_locks l JOIN pg_database d ON d.oid = l.database
 WHERE d.datname = current_database() AND l.pid <> pg_backend_pid()"""


@dataclass(frozen=True)
class Ended:
    """How a step ended: its outcome (none where it was killed), and its requests by connection."""

    status: int
    outcome: StepOutcome | None
    requests: tuple[tuple[bool, ...], ...]
    """For each connection, of each of its requests: whether it may write."""
    struck: bool


@dataclass
class Stage:
    """One database, one folder, and the steps of operations on them."""

    server: EmbeddedPostgres
    launcher: Launcher
    name: str
    folder: Path
    """The migrations; requests, outcomes and logs are beside it."""
    conn: psycopg.Connection[tuple[Any, ...]]
    log: list[str] = field(default_factory=list)

    def query(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """Ask the database past the proxy."""
        cursor = self.conn.execute(sql.encode(), params or None)
        return cursor.fetchall() if cursor.description else []

    def plan(self, policy: Policy, target: str = "Latest") -> PlanRef:
        """What a Plan step would say now. Raises StepFailed where the plan is refused."""
        request = self._request("u0", "plan", ())
        ctx = StepContext(
            request,
            {DATABASE_URI_VAR: self.server.uri(self.name)},
            self.folder,
            self.folder,
            self.folder,
            JsonLog(sys.stdout, redactor(())),
        )
        with ctx.session() as session:
            outcome, _ = plan_verb(
                session, read_source(self.folder, Format.PRISMA), PlanInput(target=target, policy=policy)
            )
        return ref_of(outcome)

    def step(
        self,
        verbs: tuple[VerbInput, ...],
        operation: str,
        *,
        attempt: int = 1,
        cut: Cut | None = None,
        kill: bool = True,
        alone: bool = False,
    ) -> Ended:
        """One step process, struck at *cut*: killed, or else only its connections cut (*alone*: that one)."""
        place = self.folder.parent
        request, outcome = place / "request.json", place / "outcome.json"
        request.write_bytes(canonical_json(self._request(operation, verbs[0].verb.lower(), verbs, attempt)))
        outcome.unlink(missing_ok=True)
        started = threading.Event()
        steps: list[Step] = []

        def strike() -> None:
            if kill:
                assert started.wait(PATIENCE_S)
                steps[0].send_signal(signal.SIGKILL)

        with (
            Proxy(self.server.port, cut, strike, alone=alone) as proxy,
            (place / "step.log").open("ab") as log,
        ):
            environ = {
                **{
                    name: value for name, value in os.environ.items() if not name.startswith(("PG", "GODWIT"))
                },
                REQUEST_FILE_VAR: str(request),
                OUTCOME_FILE_VAR: str(outcome),
                SOURCE_DIR_VAR: str(self.folder),
                DATABASE_URI_VAR: f"postgresql://postgres@127.0.0.1:{proxy.port}/{self.name}",
            }
            steps.append(self.launcher.start(environ, stdout=log, stderr=log))
            started.set()
            status = steps[0].wait()
        self.log.append(f"{verbs[0].verb}#{attempt} {cut} kill={kill} alone={alone} -> {status}")
        assert status in ((0, -9) if proxy.struck.is_set() and kill else (0,)), (
            place / "step.log"
        ).read_text()
        said = StepOutcome.decode(outcome.read_bytes()) if status == 0 else None
        return Ended(
            status, said, tuple(tuple(connection) for connection in proxy.requests), proxy.struck.is_set()
        )

    def quiet(self) -> None:
        """Wait until no session and no lock is left of the step (client_connection_check_interval is 2 s)."""
        deadline = time.monotonic() + PATIENCE_S
        while left := self.query(_LEFT):
            assert time.monotonic() < deadline, f"left of a step that is gone: {left}"
            time.sleep(0.01)

    def _request(
        self, operation: str, step: str, verbs: tuple[VerbInput, ...], attempt: int = 1
    ) -> StepRequest:
        return StepRequest(
            object=ObjectRef(kind="MigrationRun", namespace="shop", name=f"app-{operation}", uid=operation),
            step=step,
            attempt=attempt,
            operation=operation,
            spec_hash=f"spec of {operation}",
            environment=Environment.DEVELOPMENT,
            verbs=verbs,
        )


def apply_verbs(plan: PlanRef, policy: Policy) -> tuple[VerbInput, ...]:
    """What the step that applies consists of."""
    return ApplyInput(plan=plan, policy=policy), VerifyInput(state=plan.to_state, checks=policy.checks)


def revert_verbs(plan: PlanRef, policy: Policy, scope: RevertScope) -> tuple[VerbInput, ...]:
    """What the step that takes back consists of."""
    state = plan.to_state if scope is RevertScope.PLAN else plan.from_state
    return RevertInput(scope=scope, plan=plan, policy=policy), VerifyInput(state=state)


def write_folder(folder: Path, migrations: tuple[Migration, ...]) -> None:
    """Write *migrations* as Prisma's folders."""
    for migration in migrations:
        place = folder / migration.name
        place.mkdir(parents=True)
        (place / "migration.sql").write_text(migration.up_sql)
        if migration.down_sql is not None:
            (place / "down.sql").write_text(migration.down_sql)
