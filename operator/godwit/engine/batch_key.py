"""Whether a backfill can go by its key: only the database knows."""

from collections.abc import Sequence
from typing import Final

from godwit.contract.outcome import Finding
from godwit.contract.reasons import Reason
from godwit.engine.batched import AGGREGATE, Batched
from godwit.engine.compare import error
from godwit.engine.model import PlannedMigration
from godwit.engine.session import Session

_KEY_TYPES: Final = ("int2", "int4", "int8", "uuid")

# A range must meet each row once, and be found without reading the table: a valid unique index over the key
# alone, whose rows are all of the table's (manual, section 54.26).
_KEY: Final = """
SELECT a.attnotnull, t.typname,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indisvalid
                  AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum AND i.indpred IS NULL)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = to_regclass(%s) AND a.attname = (parse_ident(%s))[1]
   AND a.attnum > 0 AND NOT a.attisdropped"""
# Also one of the user's own; of a name that a plain function has as well, nobody knows which is meant.
_AGGREGATES: Final = "SELECT FROM pg_proc WHERE prokind <> 'f' AND proname = ANY (%s) LIMIT 1"


def key_findings(session: Session, steps: Sequence[PlannedMigration]) -> list[Finding]:
    """The backfills that cannot go by their key, as far as their tables are there yet. Writes nothing."""
    found = []
    for step in steps:
        batched = step.run.batched
        if batched is None or not _exists(session, batched):
            continue
        why, line = key_refusal(session, batched), step.run.statements[0].line
        if why:
            text = f"{step.run.script.path}, line {line}: {why}."
            found.append(error(Reason.STATEMENT_REFUSED, text, step.name, line))
    return found


def _exists(session: Session, batched: Batched) -> bool:
    row = session.execute("SELECT to_regclass(%s) IS NOT NULL", [batched.table]).fetchone()
    return bool(row and row[0])


def key_refusal(session: Session, batched: Batched) -> str:
    """Why the statement cannot go by its key in batches, or nothing."""
    if session.execute(_AGGREGATES, [list(batched.calls)]).rowcount:
        return AGGREGATE
    row = session.execute(_KEY, [batched.table, batched.key]).fetchone()
    name = f"{batched.table}.{batched.key}"
    if row is None:
        return f"there is no column {name} to go by in batches"
    required, kind, unique = row
    if kind not in _KEY_TYPES:
        return f"{name} is of type {kind}, and batches go by an integer or a uuid"
    if not required:
        return f"{name} may be NULL, and batches would leave such rows out"
    return "" if unique else f"{name} has no unique index of its own, which batches go by"
