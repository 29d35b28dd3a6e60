"""The statements that add a row to the journal."""

from typing import Final

from godwit.engine.repeated import Repeated

# What the transaction did to rows of tables that it did not make itself, whatever set it off: who writes to a
# table has this lock (manual, section 13.3.1), and the counters are the transaction's own (section 28.2.21).
# Nobody changes a system column's row in pg_attribute once its table was made; where that was here, or in a
# savepoint, it is not older than the transaction (`age`, section 9.27).
_CHANGED: Final = """
EXISTS (
  SELECT FROM (
    SELECT relation FROM pg_locks
     WHERE pid = pg_backend_pid() AND locktype = 'relation' AND mode = 'RowExclusiveLock'
       AND relation >= 16384
       AND pg_stat_get_xact_tuples_updated(relation) + pg_stat_get_xact_tuples_deleted(relation) > 0
    OFFSET 0) AS written
   WHERE age((SELECT a.xmin FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum = -1)) > 0
     AND EXISTS (SELECT FROM pg_class c
                  WHERE c.oid = relation AND c.relkind = 'r'
                    AND c.relnamespace IS DISTINCT FROM to_regnamespace('godwit')::oid
                    AND NOT c.relname = ANY (ARRAY(SELECT json_array_elements_text(%(own)s::json)))))"""

_ROW: Final = """
INSERT INTO godwit.journal (id, object, operation, spec_hash, step, attempt, verb, event, migration, checksum,
                            statement, down_path, down_sql, detail)
SELECT coalesce(max(id), 0) + 1, %(object)s, %(operation)s, %(spec_hash)s, %(step)s, %(attempt)s, %(verb)s,
       %(event)s, %(migration)s, %(checksum)s, %(statement)s, %(down_path)s, %(down_sql)s, {detail}
  FROM godwit.journal
RETURNING id"""
APPEND: Final = _ROW.format(detail="%(detail)s").encode()
"""A row with all its facts."""
_JUDGED: Final = f"""
%(detail)s || jsonb_build_object('destructive', (%(detail)s -> 'destructive')::boolean OR {_CHANGED})"""
APPEND_JUDGED: Final = Repeated(
    _ROW.format(detail=_JUDGED),
    object="text",
    operation="text",
    spec_hash="text",
    step="text",
    attempt="integer",
    verb="text",
    event="text",
    migration="text",
    checksum="text",
    statement="integer",
    down_path="text",
    down_sql="text",
    detail="jsonb",
    own="json",
)
"""The same, where a migration's script has run in this transaction: what that did to rows that were there
before counts as destructive besides; but for the tables *own*, which are the migration tool's."""
