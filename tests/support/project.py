"""A team's migration folder and its database, with the engine's verbs as the runner calls them."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from launcher import Launcher, Step
from plans import ref_of

from godwit.contract.base import canonical_json
from godwit.contract.environment import (
    DATABASE_URI_VAR,
    OUTCOME_FILE_VAR,
    REQUEST_FILE_VAR,
    SOURCE_DIR_VAR,
)
from godwit.contract.outcome import ApplyOutcome, PlanOutcome, RevertOutcome, StepOutcome, VerifyOutcome
from godwit.contract.policy import Environment, Policy, SqlCheck
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
from godwit.engine.apply import apply_verb
from godwit.engine.context import StepContext
from godwit.engine.plan import plan_verb
from godwit.engine.revert import revert_verb
from godwit.engine.source import read_source
from godwit.engine.verify import verify_verb


@dataclass
class Lines:
    """A log that tests can look into."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))

    warning = error = info


@dataclass
class Project:
    """A team's migration folder and its database."""

    database: Any
    folder: Path
    uri: str
    log: Lines = field(default_factory=Lines)
    format: Format = Format.PRISMA
    point: Callable[[str], None] = lambda _: None
    attempts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By operation and step."""
    launcher: Launcher | None = None
    """What starts real step processes, where the test wants some."""

    def write(self, name: str, up: str, down: str | None = None) -> None:
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "migration.sql").write_text(up)
        if down is not None:
            (self.folder / name / "down.sql").write_text(down)

    def context(self, operation: str = "u1", step: str = "apply", **changes: Any) -> StepContext:
        fields: dict[str, Any] = {
            "object": ObjectRef(kind="MigrationRun", namespace="shop", name="app-1", uid=operation),
            "step": step,
            "operation": operation,
            "spec_hash": f"spec of {operation}",
            "environment": Environment.DEVELOPMENT,
            "format": self.format,
            "verbs": (),
        }
        request = StepRequest(**(fields | changes))
        environ = {DATABASE_URI_VAR: self.uri}
        scratch = self.folder.parent
        return StepContext(request, environ, self.folder, scratch, scratch, self.log, point=self.point)

    def attempt(self, operation: str, step: str, **changes: Any) -> StepContext:
        """The next attempt at a step, as a cluster makes it, unless *changes* say which."""
        number = changes.pop("attempt", self.attempts[operation, step] + 1)
        self.attempts[operation, step] = max(self.attempts[operation, step], number)
        return self.context(operation, step, attempt=number, **changes)

    def policy(self, **changes: Any) -> Policy:
        fields: dict[str, Any] = {"environment": Environment.DEVELOPMENT, "lock_budget_ms": 0}
        return Policy(**(fields | changes))

    def planned(self, target: str = "Latest", policy: Policy | None = None) -> PlanOutcome:
        verb = PlanInput(target=target, policy=policy or self.policy())
        with self.context(step="plan").session() as session:
            return plan_verb(session, read_source(self.folder, self.format), verb)[0]

    def plan(self, target: str = "Latest", policy: Policy | None = None) -> PlanRef:
        return ref_of(self.planned(target, policy))

    def apply(
        self,
        operation: str = "u1",
        *,
        plan: PlanRef | None = None,
        policy: Policy | None = None,
        **changes: Any,
    ) -> ApplyOutcome:
        policy = policy or self.policy()
        verb = ApplyInput(plan=plan or self.plan(policy=policy), policy=policy)
        return apply_verb(self.attempt(operation, "apply", **changes), verb)

    def deploy(self, operation: str = "u1", **changes: Any) -> ApplyOutcome:
        """As a step does it: Apply, then Verify, which gives the database back."""
        outcome = self.apply(operation, **changes)
        self.verify(operation, outcome.state)
        return outcome

    def revert(
        self, operation: str, scope: RevertScope, plan: PlanRef, policy: Policy | None = None, **changes: Any
    ) -> RevertOutcome:
        verb = RevertInput(scope=scope, plan=plan, policy=policy or self.policy())
        return revert_verb(self.attempt(operation, "revert", **changes), verb)

    def verify(
        self, operation: str, state: str, checks: tuple[SqlCheck, ...] = (), **changes: Any
    ) -> VerifyOutcome:
        return verify_verb(
            self.context(operation, "apply", **changes), VerifyInput(state=state, checks=checks)
        )

    def process(self, verb: VerbInput, operation: str = "u1", *, fault: str = "", **changes: Any) -> Step:
        """A real step process, as a Job runs it; *fault* is where it dies or hangs."""
        request = self.attempt(operation, verb.verb.lower(), verbs=(verb,), **changes).request
        request_file = self.folder.parent / "request.json"
        request_file.write_bytes(canonical_json(request))
        self._outcome_file.unlink(missing_ok=True)
        environ = os.environ | {
            REQUEST_FILE_VAR: str(request_file),
            OUTCOME_FILE_VAR: str(self._outcome_file),
            SOURCE_DIR_VAR: str(self.folder),
            DATABASE_URI_VAR: self.uri,
        }
        if fault:
            environ |= {"GODWIT_FAULT": fault, "GODWIT_FAULT_INJECTION": "1"}
        with self._said_file.open("wb") as said:
            assert self.launcher is not None
            return self.launcher.start(environ, stdout=said, stderr=said)

    def step(
        self, verb: VerbInput, operation: str = "u1", *, fault: str = "", **changes: Any
    ) -> StepOutcome | None:
        """The same to its end: its outcome, or None where it was killed."""
        status = self.process(verb, operation, fault=fault, **changes).wait()
        if status == -9:
            return None
        assert status == 0, self._said_file.read_text()
        return StepOutcome.decode(self._outcome_file.read_bytes())

    @property
    def _outcome_file(self) -> Path:
        return self.folder.parent / "outcome.json"

    @property
    def _said_file(self) -> Path:
        return self.folder.parent / "step.log"

    def rows(self) -> list[str]:
        """The rows of the history: name of an applied, name! of a failed, name~ of a rolled back one."""
        return self.database.psql(
            "SELECT migration_name || CASE WHEN rolled_back_at IS NOT NULL THEN '~' "
            "WHEN finished_at IS NULL THEN '!' ELSE '' END FROM _prisma_migrations ORDER BY started_at"
        ).splitlines()


@pytest.fixture
def project(database: Any, tmp_path: Path, launcher: Launcher) -> Project:
    """An empty migration folder for a fresh, empty database."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    return Project(database, folder, database.uri, launcher=launcher)
