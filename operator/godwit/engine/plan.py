"""The plan: what is to run, and everything found on the way. `make_plan` is pure; the rest reads for it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import psycopg

from godwit.contract.base import digest
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import Failure, Finding, Findings, PlanOutcome, Severity
from godwit.contract.policy import Environment, Policy
from godwit.contract.reasons import Reason
from godwit.contract.request import Direction, PlanInput
from godwit.engine import journal, ownership, timeline
from godwit.engine.batch import batch_findings
from godwit.engine.batch_key import key_findings
from godwit.engine.besides import destroys_besides
from godwit.engine.compare import (
    LATEST,
    aim,
    compare,
    downgrade_finding,
    newest,
    newest_of,
    resolve_finding,
    warning,
)
from godwit.engine.errors import StepFailed, fail, from_postgres
from godwit.engine.escapes import escape_findings
from godwit.engine.formats.base import MigrationFormat
from godwit.engine.formats.registry import format_of
from godwit.engine.model import (
    Declared,
    History,
    Mode,
    Plan,
    PlannedMigration,
    Script,
    Source,
    state_digest,
)
from godwit.engine.obstacles import swap_obstacles
from godwit.engine.predict import hold_findings
from godwit.engine.redact import redact
from godwit.engine.resolve import due, resolved
from godwit.engine.rungs import rungs
from godwit.engine.session import Session
from godwit.engine.source import content_digest
from godwit.engine.steps import down_steps, up_steps
from godwit.engine.unfinished import with_unfinished

_FIRST_FINDINGS: Final = 8
_FIRST_NAMES: Final = 20
_ORDER: Final = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}

# An index that a partitioned table waits for (ON ONLY) is not valid on purpose.
_INVALID_INDEXES: Final = """
SELECT c.relname FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT i.indisvalid AND c.relkind = 'i' AND n.nspname = %s ORDER BY c.relname LIMIT 20"""


def make_plan(
    source: Source,
    history: History,
    kept_downs: Mapping[str, Script],
    *,
    identity: DatabaseIdentity,
    policy: Policy,
    target: str = LATEST,
    journal_head: int = 0,
    restore_obstacles: Sequence[str] = (),
    invalid_indexes: Sequence[str] = (),
    carried_out: Collection[Declared] = (),
    found_for: Callable[[Sequence[PlannedMigration]], list[Finding]] = lambda _: [],
    destroys: Callable[[Collection[str]], bool] = lambda _: False,
) -> Plan:
    """What leads from *history* to *target* in *source*, in the database *identity*.

    *target*: Latest, a migration's name, or nothing (as a plan's own `target` says it). *kept_downs*: down
    scripts as they were applied; they win over the source's. Same input, same digests: the journal's head and
    the obstacles and indexes do not count. *carried_out*: what of the policy's `resolve` and `baseline` was
    done before. *found_for*: what only the database can tell of the steps; it does not count either, nor does
    *destroys*: whether data may be destroyed by what happens besides when rows are added to these tables.
    `Plan.refusal` says whether anything may run.
    """
    found, tool = history, format_of(source.format)
    resolutions, told = due(policy, source, found, carried_out)
    changes = [r for r in resolutions if r.effective]
    history = resolved(found, resolutions)
    chosen = aim(source, history, target)
    direction = chosen.direction or (Direction.UP if changes else None)
    findings = [
        *chosen.findings,
        *told,
        *compare(source, history, chosen, kept_downs, policy.edited),
        *downgrade_finding(chosen, policy),
        *resolve_finding(chosen, changes),
        *(warning(Reason.INVALID_INDEX, f"The index {name} is INVALID.") for name in invalid_indexes),
    ]
    if chosen.downs:
        steps = down_steps(source, chosen, kept_downs, policy.environment, findings)
        used = {step.name: step.run.script.content for step in steps}
        content = [(row.name, row.checksum, used.get(row.name, "")) for row in chosen.downs]
    else:
        steps = up_steps(chosen, policy.environment, tool.TABLES, findings, destroys)
        content = [(m.name, m.up.content, m.down.content if m.down else "") for m in chosen.ups]
    findings += [*batch_findings(steps, policy), *found_for(steps)]
    leaving = {row.name for row in chosen.downs}
    expected = {row.name: row.checksum for row in history.applied if row.name not in leaving}
    expected |= {m.name: m.up.checksum for m in chosen.ups}
    begins = [history.baseline] if source.get(history.baseline) else []
    findings.sort(key=lambda f: _ORDER[f.severity])
    taken = content_digest(source.format, content, direction)
    to_state = _state_of(tool, history, expected)
    outcome = PlanOutcome(
        direction=direction,
        content=taken,
        plan=digest(
            {
                "content": taken,
                "from": found.state,
                "to": to_state,
                "database": identity.key,
                "policy": policy.to_json(),
                "resolutions": [list(r.declared) for r in resolutions],
            }
        ),
        from_state=found.state,
        to_state=to_state,
        current=newest_of(tool, found),
        target=newest(tool, [*expected, *begins]),
        applied=len(found.applied),
        pending=len(content),
        pending_names=tuple(name for name, _, _ in content[:_FIRST_NAMES]),
        statements=sum(len(step.run.statements) for step in steps),
        resolutions=len(changes),
        journal_head=journal_head,
        transactional=all(step.run.mode is Mode.WHOLE for step in steps),
        destructive=any(step.run.destructive or (bool(chosen.ups) and step.up_destructive) for step in steps),
        rungs=rungs(steps, direction, policy, restore_obstacles) if steps else (),
        findings=_summary(findings),
    )
    return Plan(outcome, tuple(steps), tuple(findings), direction, expected, resolutions)


def _state_of(tool: MigrationFormat, history: History, expected: Mapping[str, str]) -> str:
    """The state of a history that says *expected* and nothing else."""
    if history.newest_only and expected:
        last = newest(tool, expected)
        return state_digest({last: expected[last]})
    return state_digest(dict(expected))


def _summary(findings: Sequence[Finding]) -> Findings:
    count = {severity: sum(f.severity is severity for f in findings) for severity in Severity}
    return Findings(
        errors=count[Severity.ERROR],
        warnings=count[Severity.WARNING],
        infos=count[Severity.INFO],
        first=tuple(findings[:_FIRST_FINDINGS]),
    )


def effective_policy(session: Session, policy: Policy) -> Policy:
    """*policy* with the stricter of its environment and the one stamped into the database (invariant 14)."""
    environment = Environment.stricter(policy.environment, ownership.stamp(session))
    return policy.model_copy(update={"environment": environment})


def plan_of(
    session: Session,
    source: Source,
    *,
    policy: Policy,
    target: str,
    history: History | None = None,
    operation: str = "",
    ahead: bool = False,
) -> Plan:
    """The plan for the session's database as it stands, or as *history* says. Writes nothing.

    What *operation* did itself does not count. *ahead* of a run it also says what only people read of it, and
    refuses what is sure to hold locks too long; made again under the lock it must only come out the same.

    Raises psycopg.Error, and StepFailed where the journal may not be read.
    """
    invalid = session.execute(_INVALID_INDEXES, [session.schema]).fetchall() if ahead else []
    tool = format_of(source.format)

    def found_for(steps: Sequence[PlannedMigration]) -> list[Finding]:
        predicted = hold_findings(session, steps, policy) if ahead else []
        return [*key_findings(session, steps), *escape_findings(session, steps), *predicted]

    declares = policy.resolve or policy.baseline
    history = with_unfinished(session, history or tool.read_history(session), tool, operation)
    besides: list[str] = []
    if history.newest_only and source.get(target):  # an older source does not know what is to be taken back
        limit = tool.sort_key(target)
        besides = [name for name in timeline.versions(session, operation) if tool.sort_key(name) > limit]
    history = tool.fill(history, source, besides)
    return make_plan(
        source,
        history,
        timeline.kept_downs(session, history, operation),
        identity=session.identity,
        policy=effective_policy(session, policy),
        target=target,
        journal_head=journal.head(session),
        restore_obstacles=swap_obstacles(session) if ahead and policy.backup_required else (),
        invalid_indexes=[name for (name,) in invalid],
        found_for=found_for,
        destroys=lambda tables: destroys_besides(session, tables, repeated=True),
        carried_out=timeline.carried_out(session, source.format, operation) if declares else (),
    )


def plan_verb(session: Session, source: Source, verb: PlanInput) -> tuple[PlanOutcome, dict[str, Any]]:
    """The plan and the whole of it as a document for people: SQL, statements, all findings.

    Raises StepFailed with both beside it when the plan is refused: the failure is its first error.
    """
    named = source.get(verb.target)
    if named is not None and named.repeatable:
        text = f"{named.name} is a repeatable, which comes after every version: no target. Name a version."
        raise fail(Reason.TARGET_NOT_FOUND, text, standing="Nothing was changed.", migration=named.name)
    try:
        plan = plan_of(session, source, policy=verb.policy, target=verb.target or LATEST, ahead=True)
    except psycopg.Error as exc:
        # Somebody's lock on the history or the journal ends by itself: that is no reason to give up.
        locked = exc.sqlstate == "55P03"  # lock_not_available: the session's lock_timeout
        reason = Reason.TABLE_LOCKED if locked else Reason.PERMISSION_DENIED
        raise from_postgres(exc, default=reason, standing="Nothing was changed.") from None
    document = _document(plan)
    refusal = plan.refusal
    if refusal is None:
        return plan.outcome, document
    more = plan.outcome.findings.errors - 1
    failure = Failure(
        reason=refusal.reason,
        message=refusal.message + (f" Errors in the plan besides this one: {more}." if more else ""),
        standing=f"Nothing was changed; the newest migration is {plan.outcome.current or 'none'}.",
        migration=refusal.migration,
        line=refusal.line,
    )
    raise StepFailed(failure, plan.outcome, document)


def _document(plan: Plan) -> dict[str, Any]:
    outcome = plan.outcome
    return {
        "plan": outcome.plan,
        "content": outcome.content,
        "direction": plan.direction.value if plan.direction else None,
        "current": outcome.current,
        "target": outcome.target,
        "findings": [f.to_json() for f in plan.findings],
        "rungs": [r.to_json() for r in outcome.rungs],
        "resolutions": [
            {"as": r.declared.how, "migration": r.declared.migration, "marked": [m.name for m in r.applied]}
            for r in plan.resolutions
            if r.effective
        ],
        "migrations": [
            {
                "name": step.name,
                "file": step.run.script.path,
                "checksum": step.run.script.checksum,
                "mode": step.run.mode.value,
                "destructive": step.run.destructive,
                "down": step.down is not None or plan.direction is Direction.DOWN,
                "statements": [
                    {
                        "line": s.line,
                        "sql": redact(s.text),
                        "transactional": s.transactional,
                        "destructive": s.destructive,
                        "locks": list(s.locks),
                    }
                    for s in step.run.statements
                ],
            }
            for step in plan.steps
        ],
    }
