"""Everything pending in one transaction: which files cannot be in it. Pure.

What only the server knows, for example a table with pending trigger events, is met when it runs, and rolls
all of it back.
"""

import re
from collections.abc import Sequence
from typing import Final

from godwit.contract.outcome import Finding
from godwit.contract.policy import Policy, TransactionMode
from godwit.contract.reasons import Reason
from godwit.engine.compare import error
from godwit.engine.model import Mode, PlannedMigration, Statement

BATCH_ROLLED_BACK: Final = "All migrations of the batch were rolled back; nothing of them is left."
_ENDS: Final = re.compile(r"\b(commit|rollback|call)\b", re.IGNORECASE)
_LEVEL: Final = re.compile(r"SET\s+(LOCAL\s+)?TRANSACTION\s+ISOLATION\b", re.IGNORECASE)


def may_end(text: str) -> bool:
    """Whether a DO block may end its transaction by itself.

    Only COMMIT, ROLLBACK and CALL in a procedure's own text can (manual, section 43.8); the text is searched.
    """
    return bool(_ENDS.search(text))


def batch_findings(steps: Sequence[PlannedMigration], policy: Policy) -> list[Finding]:
    """The files that keep the plan from being one transaction, where the policy wants that."""
    if policy.transaction is not TransactionMode.BATCH or len(steps) < 2:
        return []
    found = []
    for number, step in enumerate(steps):
        obstacle = _obstacle(step, first=number == 0)
        if obstacle:
            statement, why = obstacle
            found.append(
                error(
                    Reason.STATEMENT_REFUSED,
                    f"{step.run.script.path}, line {statement.line}: {why}, and transaction is Batch: "
                    "deploy it by itself, or set PerMigration.",
                    step.name,
                    statement.line,
                )
            )
    return found


def _obstacle(step: PlannedMigration, *, first: bool) -> tuple[Statement, str] | None:
    statements = step.run.statements
    if step.run.mode is Mode.BATCHED:
        return statements[0], "it runs in batches, each with a transaction of its own"
    alien = next((s for s in statements if not s.transactional), None)
    if alien is not None or step.run.mode is Mode.STATEMENT_WISE:
        return alien or statements[0], "it cannot run in a transaction"
    if step.run.mode is Mode.ALONE and statements[0].tag == "DoStmt" and may_end(statements[0].text):
        return statements[0], "it may end its transaction by itself"
    level = next((s for s in statements if _LEVEL.match(s.text)), None)
    if level is not None and not first:
        return level, "it sets the isolation level of a transaction that has begun by then"
    return None
