"""Step processes as a Job's pod starts them, measured from outside."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plans import ref_of

from godwit.contract.base import canonical_json
from godwit.contract.environment import (
    DATABASE_URI_VAR,
    OUTCOME_FILE_VAR,
    REQUEST_FILE_VAR,
    SCRATCH_DIR_VAR,
    SOURCE_DIR_VAR,
)
from godwit.contract.outcome import PlanOutcome, StepOutcome
from godwit.contract.policy import Environment, Policy
from godwit.contract.request import (
    ApplyInput,
    ObjectRef,
    PlanInput,
    StepRequest,
    VerbInput,
    VerifyInput,
)

PATIENCE_S = 300
POLICY = Policy(environment=Environment.PRODUCTION)


@dataclass(frozen=True)
class Measured:
    """One process: by `time.monotonic` when it was started and when it ended; its peak memory and CPU."""

    started: float
    ended: float
    peak_mib: float
    cpu: float

    @property
    def seconds(self) -> float:
        return self.ended - self.started


class NotThroughError(Exception):
    """A process failed; the text is what it printed last."""


def measure(
    command: list[str], environ: Mapping[str, str], *, log: Path, folder: Path | None = None
) -> Measured:
    """Run *command* to its end. Raises NotThroughError with what it printed into *log*, where it fails."""
    with log.open("wb") as out:
        started = time.monotonic()
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder
        )
        # One that waits for itself: Flyway does, for a session of its own, with an index built CONCURRENTLY.
        patience = threading.Timer(PATIENCE_S, process.kill)
        patience.start()
        _, status, used = os.wait4(process.pid, 0)
        patience.cancel()
        ended = time.monotonic()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == -signal.SIGKILL:
        raise NotThroughError(f"not through within {PATIENCE_S} s, stopped")
    if process.returncode != 0:
        raise NotThroughError(f"{command[0]}:\n{log.read_text(errors='replace')[-3000:]}")
    return Measured(started, ended, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime)


class Runner:
    """`python -m godwit.runner` on the migrations in `source`, from compiled modules as in the image.

    The first one compiles into *compiled*, by default a folder of its own.
    """

    def __init__(self, folder: Path, compiled: Path | None = None) -> None:
        self._folder = folder
        self._compiled = compiled or folder / "compiled"
        self.source = folder / "migrations"
        (folder / "scratch").mkdir()
        self.source.mkdir(exist_ok=True)

    def run(self, uri: str, *verbs: VerbInput, step: str) -> tuple[StepOutcome, Measured]:
        """Do *verbs*, which must end well."""
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
            "PYTHONPYCACHEPREFIX": str(self._compiled),
        }
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        measured = measure(
            [sys.executable, "-P", "-m", "godwit.runner"], environ, log=self._folder / "step.log"
        )
        outcome = StepOutcome.decode((self._folder / "outcome.json").read_bytes())
        assert outcome.failure is None, outcome.failure
        return outcome, measured

    def plan(self, uri: str) -> tuple[PlanOutcome, Measured]:
        """What is to do, as the step before Apply finds it."""
        outcome, measured = self.run(uri, PlanInput(policy=POLICY), step="plan")
        planned = outcome.get(PlanOutcome)
        assert planned is not None
        return planned, measured

    def apply(self, uri: str, planned: PlanOutcome) -> tuple[StepOutcome, Measured]:
        """Apply and Verify, one step of a run."""
        ref = ref_of(planned)
        return self.run(
            uri, ApplyInput(plan=ref, policy=POLICY), VerifyInput(state=ref.to_state), step="apply"
        )
