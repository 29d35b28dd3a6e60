"""Steps as child processes, by the contract that a Job's pod has: request file, environment, outcome file."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

from godwit.cluster.jobs import GRACE_SECONDS
from godwit.cluster.local_objects import Change
from godwit.cluster.local_places import MissingError, Mounts, Places, secret_keys
from godwit.cluster.port import Manifest
from godwit.contract.environment import OUTCOME_LIMIT
from godwit.contract.outcome import StepOutcome
from godwit.contract.reasons import Reason
from godwit.planner.decision import GONE, StepSeen, StepSpec, StepState

_PENDING = StepSeen(StepState.PENDING, Reason.POD_PENDING)


class Process(Protocol):
    """A step's process, of which asyncio.subprocess.Process is one."""

    @property
    def pid(self) -> int:
        """Its id, which is also that of its process group."""

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the signal's number where one ended it; None as long as it is not known."""

    async def wait(self) -> int:
        """Wait for its end and return the exit status."""

    def send_signal(self, signal: int, /) -> None:
        """Send a signal to it alone. Raises ProcessLookupError."""


Start = Callable[[Sequence[str], Mapping[str, str], Path, IO[bytes]], Awaitable[Process]]
"""Starts a step: its command, its whole environment, its working directory, the file for what it prints.

Raises OSError, and ValueError for a variable's value that no process can be given.
"""


async def start_process(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: IO[bytes]
) -> Process:
    """See `Start`."""
    return await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        # A process group of its own: what it leaves running ends with it, as in a container.
        start_new_session=True,
    )


class Delay:
    """Steps that are held back until `release()`: a pod that nobody schedules, a node that went silent."""

    def __init__(self, matches: Callable[[StepSpec], bool], released: Callable[[], None]) -> None:
        self.matches = matches
        self.over = False
        self._released = released

    def release(self) -> None:
        """Let them start, those of them too whose Job has been lost meanwhile."""
        self.over = True
        self._released()


@dataclass(eq=False)
class _Step:
    spec: StepSpec
    delay: Delay | None
    places: Places
    seen: StepSeen = _PENDING
    process: Process | None = None
    task: asyncio.Task[None] | None = None
    wanted: bool = True
    """False once its Job was deleted: it must end, or never start."""


class LocalSteps:
    """The steps of a local cluster, and what they mount. Its processes end with `aclose()` at the latest."""

    def __init__(
        self,
        *,
        command: Sequence[str],
        start: Start,
        environment: Callable[[StepSpec], Mapping[str, str]],
        config_map: Callable[[str, str], Manifest | None],
        changed: Callable[[Change], None],
    ) -> None:
        self._command = tuple(command)
        self._start = start
        self._environment = environment
        self._config_map = config_map
        self._changed = changed
        self._folder = Path(tempfile.mkdtemp(prefix="godwit-steps-"))
        self._made = 0
        self._steps: dict[tuple[str, str], _Step] = {}
        self._lost: list[_Step] = []
        """Steps without a Job that are not over: their process goes on, or may still start."""
        self._delays: list[Delay] = []
        self._refused: dict[str, str] = {}
        self.secrets: dict[tuple[str, str], dict[str, str]] = {}
        self.images: dict[str, Path] = {}
        self.volumes: dict[tuple[str, str], Path] = {}

    def start(self, spec: StepSpec) -> None:
        """As the port's `start_step`."""
        key = (spec.namespace, spec.job)
        if key not in self._steps:
            self._made += 1
            delay = next((d for d in self._delays if not d.over and d.matches(spec)), None)
            self._steps[key] = _Step(spec, delay, Places(self._folder / str(self._made)))
            self._advance(self._steps[key])

    def observe(self, namespace: str, job: str, owner_uid: str, request_hash: str) -> StepSeen:
        """As the port's `observe_step`."""
        step = self._steps.get((namespace, job))
        if step is None:
            return GONE
        if step.spec.owner.uid != owner_uid or step.spec.request.hash != request_hash:
            return StepSeen(step.seen.state, foreign=True)
        return step.seen

    def names(self, namespace: str) -> list[str]:
        """Names of the Jobs of a namespace, in order."""
        return sorted(job for place, job in self._steps if place == namespace)

    def log(self, namespace: str, job: str) -> str | None:
        """What the step has printed so far; None without a Job."""
        step = self._steps.get((namespace, job))
        if step is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            return step.places.log.read_text(encoding="utf-8", errors="replace")
        return ""

    def document(self, namespace: str, job: str) -> str | None:
        """As the port's `read_document`."""
        for line in reversed((self.log(namespace, job) or "").splitlines()):
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == "document":
                    return line
        return None

    def delete(self, namespace: str, job: str) -> None:
        """As the port's `delete_step`: the Job is gone at once, its process soon."""
        step = self._steps.pop((namespace, job), None)
        if step is not None:
            self._end(step)
            self._tell(step)

    def delete_where(self, matches: Callable[[StepSpec], bool]) -> None:
        """Delete every step that *matches*."""
        for (namespace, job), step in list(self._steps.items()):
            if matches(step.spec):
                self.delete(namespace, job)

    def kill(self, namespace: str, job: str) -> None:
        """End the step's process at once; it can say nothing any more."""
        step = self._steps.get((namespace, job))
        if step is not None:
            _signal(step, signal.SIGKILL)

    def lose(self, namespace: str, job: str) -> None:
        """The Job is gone, and its process does not know: it goes on, or starts when its delay is over."""
        step = self._steps.pop((namespace, job), None)
        if step is not None:
            if step.task is None or not step.task.done():
                self._lost.append(step)
            self._tell(step)

    def refuse(self, namespace: str, message: str | None) -> None:
        """From now on no step of *namespace* gets a pod, for the reason in *message*; None: they do again."""
        if message is None:
            self._refused.pop(namespace, None)
        else:
            self._refused[namespace] = message
        self.look_again()

    def delay(self, matches: Callable[[StepSpec], bool]) -> Delay:
        """Hold back steps that are started from now on and that *matches*."""
        self._delays.append(Delay(matches, self.look_again))
        return self._delays[-1]

    def look_again(self) -> None:
        """Start what waited for something that is there now."""
        for step in [*self._steps.values(), *self._lost]:
            self._advance(step)

    async def aclose(self) -> None:
        """End every process of this cluster and remove their folders."""
        steps = [*self._steps.values(), *self._lost]
        self._steps.clear()
        for step in steps:
            step.wanted = False
            _signal(step, signal.SIGKILL)
        await asyncio.gather(*(step.task for step in steps if step.task is not None))
        shutil.rmtree(self._folder, ignore_errors=True)

    def _advance(self, step: _Step) -> None:
        """Start the step's process if it may and has all that it needs; else say what it waits for."""
        if step.task is not None:
            return
        refused = self._refused.get(step.spec.namespace)
        if refused is not None:
            self._show(step, StepSeen(StepState.NO_POD, Reason.POD_REFUSED, refused))
        elif step.delay is not None and not step.delay.over:
            self._show(step, replace(_PENDING, message="The pod is not scheduled."))
        else:
            try:
                mounts = self._mounts(step.spec)
            except MissingError as missing:
                self._show(step, StepSeen(StepState.PENDING, missing.reason, str(missing)))
            else:
                step.task = asyncio.create_task(self._run(step, mounts))

    def _mounts(self, spec: StepSpec) -> Mounts:
        """All that the step needs. Raises MissingError, as a kubelet would wait for it."""
        store = source = None
        config_maps = []
        if spec.volume is not None:
            claim = spec.volume.claim_name
            if (spec.namespace, claim) not in self.volumes:
                raise MissingError(Reason.POD_PENDING, f'persistentvolumeclaim "{claim}" not found')
            store = self.volumes[spec.namespace, claim] / spec.volume.path
        for name in spec.source.config_maps if spec.source is not None else ():
            found = self._config_map(spec.namespace, name)
            if found is None:
                raise MissingError(Reason.SOURCE_MISSING, f'configmap "{name}" not found')
            config_maps.append(found)
        if spec.source is not None and spec.source.image is not None:
            image = spec.source.image
            if image.reference not in self.images:
                raise MissingError(Reason.IMAGE_UNAVAILABLE, f'image "{image.reference}" cannot be pulled')
            source = self.images[image.reference] / image.path
        values = {}
        for variable, (name, key) in secret_keys(spec).items():
            if (spec.namespace, name) not in self.secrets:
                raise MissingError(Reason.SECRET_MISSING, f'secret "{name}" not found')
            if key not in self.secrets[spec.namespace, name]:
                raise MissingError(Reason.SECRET_MISSING, f'secret "{name}" has no key "{key}"')
            values[variable] = self.secrets[spec.namespace, name][key]
        return Mounts(values, tuple(config_maps), source, store)

    async def _run(self, step: _Step, mounts: Mounts) -> None:
        """The step's process from its start to its end, and what became of it."""
        try:
            environment = {**step.places.furnish(step.spec, mounts), **self._environment(step.spec)}
            with step.places.log.open("wb") as log:
                step.process = await self._start(self._command, environment, step.places.scratch, log)
        except (OSError, ValueError) as error:
            # A ValueError's text names no value.
            said = error.strerror if isinstance(error, OSError) else str(error)
            why = f"The step's process could not be started: {said}."
            self._show(step, StepSeen(StepState.CRASHED, Reason.STEP_CRASHED, why))
            return
        self._show(step, StepSeen(StepState.RUNNING))
        if not step.wanted:
            _signal(step, signal.SIGKILL)
        deadline = asyncio.get_running_loop().call_later(step.spec.deadline_seconds, _stop, step)
        status = await step.process.wait()
        deadline.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(step.process.pid, signal.SIGKILL)
        self._show(step, _seen(step.places, status))
        if step in self._lost:
            self._lost.remove(step)
        if not step.wanted:
            shutil.rmtree(step.places.folder, ignore_errors=True)

    def _end(self, step: _Step) -> None:
        """Nobody wants this step any more: end its process, and leave nothing of it."""
        step.wanted = False
        if step.task is None or step.task.done():
            shutil.rmtree(step.places.folder, ignore_errors=True)
        else:
            self._lost.append(step)
            _stop(step)

    def _show(self, step: _Step, seen: StepSeen) -> None:
        if step.seen != seen:
            step.seen = seen
            if self._steps.get((step.spec.namespace, step.spec.job)) is step:
                self._tell(step)

    def _tell(self, step: _Step) -> None:
        self._changed(Change("Job", step.spec.namespace, step.spec.job, step.spec.owner))


def _stop(step: _Step) -> None:
    """Ask the process to end, and end it when it has not after the grace."""
    _signal(step, signal.SIGTERM)
    asyncio.get_running_loop().call_later(GRACE_SECONDS, _signal, step, signal.SIGKILL)


def _signal(step: _Step, number: signal.Signals) -> None:
    """Send the signal while the process runs: SIGKILL to its whole group, others to itself."""
    if step.process is not None and step.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(step.process.pid, number)
            else:
                step.process.send_signal(number)


def _seen(places: Places, status: int) -> StepSeen:
    """What an ended process left: its outcome counts only with exit status 0."""
    if status != 0:
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        return _crashed(f"The step's process ended {how} and left no outcome.")
    with places.outcome.open("rb") as file:
        data = file.read(OUTCOME_LIMIT)
    try:
        return StepSeen(StepState.FINISHED, outcome=StepOutcome.decode(data))
    except ValueError:
        return _crashed("The step's process ended and left no outcome that can be read.")


def _crashed(message: str) -> StepSeen:
    return StepSeen(StepState.CRASHED, Reason.STEP_CRASHED, message, exited=True)
