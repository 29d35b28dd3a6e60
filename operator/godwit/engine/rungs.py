"""Which ways back a plan has (invariant 10): none is promised that is not listed here. Pure."""

from collections.abc import Sequence

from godwit.contract.outcome import Rung, RungState
from godwit.contract.policy import Policy, TransactionMode
from godwit.contract.request import Direction
from godwit.engine.batch import may_end
from godwit.engine.model import Mode, PlannedMigration, Statement


def rungs(
    steps: Sequence[PlannedMigration],
    direction: Direction | None,
    policy: Policy,
    restore_obstacles: Sequence[str] = (),
) -> tuple[RungState, ...]:
    """The four ways back for *steps*, in the order of the ladder, each with the reason where it is closed.

    A restore is open where the policy asks for a backup, the loss of what is written meanwhile is consented
    to, and nothing (*restore_obstacles*) keeps the server from it.
    """
    restore = _restore(policy, restore_obstacles)
    return (_transaction(steps, policy), _undo(steps), _down(steps, direction, policy), restore)


def _transaction(steps: Sequence[PlannedMigration], policy: Policy) -> RungState:
    if policy.transaction is TransactionMode.BATCH and len(steps) > 1:
        why = f"all {len(steps)} migrations are one transaction"
        return RungState(rung=Rung.TRANSACTION, possible=True, why=why)
    outside = [s.name for s in steps if s.run.mode is not Mode.WHOLE]
    why = f"{outside[0]} runs outside a transaction" if outside else ""
    return RungState(rung=Rung.TRANSACTION, possible=len(outside) < len(steps), why=why)


def _undo(steps: Sequence[PlannedMigration]) -> RungState:
    outside = [s for s in steps if s.run.mode not in {Mode.WHOLE, Mode.BATCHED}]
    if not outside:
        return RungState(rung=Rung.UNDO, possible=False, why="nothing runs outside a transaction")
    blind = [
        step.name
        for step in outside
        if step.run.mode is Mode.ALONE or not all(_told_by_catalog(s) for s in step.run.statements)
    ]
    why = f"what {blind[0]} leaves half done cannot be told from the catalog" if blind else ""
    return RungState(rung=Rung.UNDO, possible=len(blind) < len(outside), why=why)


def _told_by_catalog(statement: Statement) -> bool:
    """Whether the statement leaves nothing half done, or an index. A DO or CALL may commit by itself."""
    commits = statement.tag == "CallStmt" or (statement.tag == "DoStmt" and may_end(statement.text))
    whole = statement.transactional and not commits
    return whole or bool(statement.concurrent_index) or statement.tag == "IndexStmt"


def _down(steps: Sequence[PlannedMigration], direction: Direction | None, policy: Policy) -> RungState:
    if direction is Direction.DOWN:
        return RungState(rung=Rung.DOWN, possible=False, why="this plan goes down itself")
    without = next((s.name for s in steps if s.down is None), "")
    if without:
        return RungState(rung=Rung.DOWN, possible=False, why=f"{without} has no usable down.sql")
    lossy = next((s.name for s in steps if s.up_destructive), "")
    if lossy and not policy.allow_data_loss:
        why = f"{lossy} can destroy data that its down.sql cannot bring back"
        return RungState(rung=Rung.DOWN, possible=False, why=why)
    return RungState(rung=Rung.DOWN, possible=True)


def _restore(policy: Policy, obstacles: Sequence[str]) -> RungState:
    why = "; ".join(obstacles)
    if not policy.backup_required:
        why = "the policy asks for no backup"
    elif not policy.allow_data_loss:
        why = "nobody consented to lose what is written after the backup"
    return RungState(rung=Rung.RESTORE, possible=not why, why=why)
