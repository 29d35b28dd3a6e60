"""One step: read the request, do its verbs in order, write the outcome whatever happens.

Exit status 0 whenever an outcome was written, success or not; anything else means that there is none.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import psycopg

from godwit.contract.environment import OUTCOME_FILE, OUTCOME_FILE_VAR
from godwit.contract.outcome import Failure, RestoreOutcome, StepOutcome, VerbOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import StepRequest
from godwit.engine.context import Cancellation, StepContext
from godwit.engine.errors import STATEMENT_LIMIT, StepFailed, fail, from_postgres
from godwit.runner.context import make_context, read_raw_request, request_hash, secrets_of, understand
from godwit.runner.faults import Faults
from godwit.runner.log import JsonLog, redactor
from godwit.runner.verbs import run_verb

_QUERY_CANCELED = "57014"


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run the step that *environ* describes and return the process's exit status."""
    started = datetime.now(UTC)
    clean = redactor(secrets_of(environ))
    log = JsonLog(sys.stdout, clean)
    cancelled = Cancellation()
    step = _Step(environ, log, cancelled)
    with _told_to_end(cancelled, log):
        failure = _guarded(step.run, log, cancelled)
    if failure is not None:
        texts = {
            k: clean(v) for k in ("message", "standing", "statement", "hint") if (v := getattr(failure, k))
        }
        texts["statement"] = texts.get("statement", "")[:STATEMENT_LIMIT]
        failure = failure.model_copy(update=texts)
        log.error("step.failed", message=failure.message, failure=failure.to_json())
    else:
        log.info("step.finished", message=f"{step.name} finished")
    outcome = StepOutcome(
        request_hash=step.hash,
        attempt=step.attempt,
        started_at=started,
        ended_at=datetime.now(UTC),
        verbs=tuple(step.verbs),
        failure=failure,
        resumed=step.resumed,
    )
    if step.lost():
        return 1
    return _write(outcome, Path(environ.get(OUTCOME_FILE_VAR, OUTCOME_FILE)), log, clean)


class _Step:
    """What is known of the step so far; `run` fills it in as it gets on."""

    def __init__(self, environ: Mapping[str, str], log: JsonLog, cancelled: Cancellation) -> None:
        self.environ = environ
        self.log = log
        self.cancelled = cancelled
        self.hash = ""
        self.attempt = 1
        self.name = "step"
        self.verbs: list[VerbOutcome] = []
        self.resumed = False
        self.faults: Faults | None = None

    def run(self) -> None:
        """Do the request's verbs, stopping at the first that fails. Raises StepFailed, or anything at all."""
        raw = read_raw_request(self.environ)
        self.hash = request_hash(raw)
        request = understand(raw)
        self.attempt, self.name = request.attempt, request.step
        try:
            self.faults = Faults(self.environ)
        except ValueError as error:
            raise fail(Reason.INTERNAL_ERROR, str(error), standing="The database was not touched.") from None
        ctx = make_context(
            request, self.environ, log=self.log, cancelled=self.cancelled, point=self.faults.point
        )
        self.log.info(
            "step.started",
            message=f"{request.step}, attempt {request.attempt}",
            object=str(request.object),
            verbs=[v.verb for v in request.verbs],
        )
        with _budget(request, self.cancelled):
            self._verbs(ctx)

    def _verbs(self, ctx: StepContext) -> None:
        ctx.point("runner.start")
        for verb in ctx.request.verbs:
            ctx.cancelled.check()
            self.log.info("verb.started", message=verb.verb)
            try:
                self.verbs.append(run_verb(ctx, verb))
            except StepFailed as failed:
                if failed.document is not None:
                    self.log.info("document", message="the refused plan", document=dict(failed.document))
                if failed.outcome is not None:
                    self.verbs.append(failed.outcome)
                raise
            finally:
                self.resumed = ctx.resumed.is_set()
            self.log.info("verb.finished", message=verb.verb, outcome=self.verbs[-1].to_json())
            ctx = _moved(ctx, self.verbs[-1])
        ctx.point("runner.before_outcome")

    def lost(self) -> bool:
        """Whether a test asked for the outcome to be lost."""
        return self.faults is not None and self.faults.lost


def _moved(ctx: StepContext, outcome: VerbOutcome) -> StepContext:
    """The context of the next verb: after a swap the live database is another one than was asked for."""
    if not isinstance(outcome, RestoreOutcome):
        return ctx
    return replace(ctx, request=ctx.request.model_copy(update={"identity": outcome.identity}))


def _guarded(run: Callable[[], None], log: JsonLog, cancelled: Cancellation) -> Failure | None:
    """Do *run*; whatever it raises becomes a failure without a secret in it."""
    try:
        run()
    except StepFailed as failed:
        failure = failed.failure
    except psycopg.Error as error:
        _log_exception(log, error)
        failure = from_postgres(error, default=Reason.INTERNAL_ERROR).failure
    except BaseException as error:  # noqa: BLE001  the outcome is owed in every case
        _log_exception(log, error)
        failure = Failure(
            reason=Reason.INTERNAL_ERROR,
            message=f"{type(error).__name__} in the step; the traceback is in its log.",
            standing="What was committed before stands; the journal in the database tells.",
        )
    else:
        return None
    if cancelled.is_set() and failure.sqlstate == _QUERY_CANCELED:
        # The query did not fail: it was we who cancelled it.
        return failure.model_copy(update={"reason": cancelled.reason, "message": cancelled.message})
    return failure


def _log_exception(log: JsonLog, error: BaseException) -> None:
    """Log the frames and kinds of *error* and its causes, without PostgreSQL's DETAIL: it may hold rows."""
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = cause.diag.message_primary or "" if isinstance(cause, psycopg.Error) else str(cause)
        lines += [f"{type(cause).__qualname__}: {text}"]
        lines += [f"  {f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(cause.__traceback__)]
        cause = cause.__cause__ or cause.__context__
    log.error("step.exception", message=type(error).__name__, traceback=lines)


@contextlib.contextmanager
def _told_to_end(cancelled: Cancellation, log: JsonLog) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a cancellation for the block; a pod that is deleted gets SIGTERM first."""

    def cancel(name: str) -> None:
        log.warning("step.cancelled", message=f"{name} received: what is under way is stopped")
        cancelled.cancel(
            Reason.CONNECTION_LOST,
            f"The step was told to end ({name}: pod deleted, node drained, or deadline); "
            "the query that ran was cancelled.",
        )

    def handle(number: int, _: FrameType | None) -> None:
        # In a thread: the main thread may be inside the very call that is to be cancelled.
        threading.Thread(target=cancel, args=(signal.Signals(number).name,), daemon=True).start()

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        # From here on the outcome is being written; a second signal must not keep it from that.
        for number in before:
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _budget(request: StepRequest, cancelled: Cancellation) -> Iterator[None]:
    """Cancel when the request's time is up; the Job's own deadline, which gives no warning, is longer."""
    message = f"The step did not end within its budget of {request.budget_seconds} s; it was stopped."
    timer = threading.Timer(request.budget_seconds, cancelled.cancel, (Reason.DEADLINE_EXCEEDED, message))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _write(outcome: StepOutcome, path: Path, log: JsonLog, clean: Callable[[str], str]) -> int:
    """Write *outcome*, in place: a Job's termination message is a mounted file. Returns the exit status."""
    try:
        data = outcome.encode(clean)
    except ValueError as error:
        failure = Failure(reason=Reason.INTERNAL_ERROR, message=str(error))
        data = outcome.model_copy(update={"verbs": (), "failure": failure}).encode()
    try:
        path.write_bytes(data)
    except OSError as error:
        log.warning("outcome.lost", message=f"The outcome cannot be written: {error.strerror} ({path}).")
        return 1
    log.info("outcome", outcome=outcome.to_json())
    return 0
