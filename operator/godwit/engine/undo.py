"""Undoing exactly what is ours: an INVALID index that a failed CREATE INDEX CONCURRENTLY left."""

from typing import Final

from godwit.engine import journal
from godwit.engine.execute import set_limits
from godwit.engine.model import PlannedMigration, Statement
from godwit.engine.run import Run

_NAME: Final = """
SELECT format('%%I.%%I', n.nspname, c.relname)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE i.indexrelid = %s AND NOT i.indisvalid AND c.relkind = 'i'"""


def drop_invalid(
    run: Run, oids: tuple[int, ...], planned: PlannedMigration, statement: Statement
) -> list[str]:
    """Drop these indexes concurrently, as long as they are INVALID, and record it. Returns their names.

    DROP INDEX CONCURRENTLY takes no lock that keeps readers or writers out; it waits for older transactions,
    so lock_timeout must not cut it.
    """
    names = []
    set_limits(run, local=False, concurrent=True)
    for oid in oids:
        row = run.session.execute(_NAME, [oid]).fetchone()
        if row is None:
            continue
        run.point("before_undo")
        run.session.conn.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {row[0]}".encode())
        names.append(row[0])
    set_limits(run, local=False)
    if names:
        journal.append(
            run.session,
            run.ctx.request,
            journal.Event.UNDONE,
            verb=run.verb,
            migration=planned.name,
            checksum=planned.checksum,
            statement=statement.index,
            detail={"dropped": names},
        )
        run.ctx.progress("undone", message=f"dropped INVALID index {', '.join(names)}", indexes=names)
    run.point("after_undo")
    return names
