"""From the contract's verbs to the engine's functions; each imports only what it needs."""
# ruff: noqa: PLC0415

from godwit.contract.outcome import PlanOutcome, VerbOutcome
from godwit.contract.request import (
    ApplyInput,
    BackupInput,
    CheckInput,
    DeleteBackupInput,
    PlanInput,
    RestoreInput,
    RevertInput,
    VerbInput,
    VerifyBackupInput,
    VerifyInput,
)
from godwit.engine.context import StepContext


def run_verb(ctx: StepContext, verb: VerbInput) -> VerbOutcome:
    """Do what *verb* says and return what came of it. Raises StepFailed."""
    match verb:
        case CheckInput():
            from godwit.engine.check import check_verb

            return check_verb(ctx, verb)
        case PlanInput():
            return _plan(ctx, verb)
        case BackupInput():
            from godwit.engine.dump import backup_verb

            return backup_verb(ctx, verb)
        case VerifyBackupInput():
            from godwit.engine.dump import verify_backup_verb

            return verify_backup_verb(ctx, verb)
        case DeleteBackupInput():
            from godwit.engine.dump import delete_backup_verb

            return delete_backup_verb(ctx, verb)
        case ApplyInput():
            from godwit.engine.apply import apply_verb

            return apply_verb(ctx, verb)
        case RevertInput():
            from godwit.engine.revert import revert_verb

            return revert_verb(ctx, verb)
        case VerifyInput():
            from godwit.engine.verify import verify_verb

            return verify_verb(ctx, verb)
        case RestoreInput():
            from godwit.engine.restore import restore_verb

            return restore_verb(ctx, verb)


def _plan(ctx: StepContext, verb: PlanInput) -> PlanOutcome:
    """The plan, with the whole of it (SQL and findings) in the log as one `document` event."""
    from godwit.engine.plan import plan_verb

    source = ctx.source()
    with ctx.session() as session:
        outcome, document = plan_verb(session, source, verb)
    ctx.log.info("document", message=f"plan {outcome.plan[:12]}", document=document)
    return outcome
