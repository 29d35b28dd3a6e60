"""What the catalog says: a fingerprint of declared schemas, and what a plan left broken in them."""

import hashlib
from collections.abc import Collection, Sequence
from typing import Final

from godwit.engine.session import Session

# One line an object, by names and definitions only: equal for equal schemas of any database. Members of
# extensions are the extension's business. Sequence values and statistics are data.
_LINES: Final = """
WITH mine AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY (%(schemas)s)
), members AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), relations AS (
    SELECT c.*, n.nspname FROM pg_class c JOIN mine n ON n.oid = c.relnamespace
     WHERE c.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_class'::regclass)
)
SELECT concat_ws('|', 'relation', nspname, relname, relkind, relpersistence, relrowsecurity,
                 relforcerowsecurity, reloptions::text, pg_get_partkeydef(oid),
                 pg_get_expr(relpartbound, oid),
                 CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid) END)
  FROM relations WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
UNION ALL
SELECT concat_ws('|', 'column', c.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                 a.attnotnull, a.attidentity, a.attgenerated, pg_get_expr(f.adbin, f.adrelid), l.collname)
  FROM pg_attribute a JOIN relations c ON c.oid = a.attrelid
  LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
 WHERE c.relkind IN ('r', 'p', 'f', 'c') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT concat_ws('|', 'constraint', n.nspname, t.conrelid::regclass, t.conname, pg_get_constraintdef(t.oid),
                 t.convalidated)
  FROM pg_constraint t JOIN mine n ON n.oid = t.connamespace
UNION ALL
SELECT concat_ws('|', 'index', c.nspname, pg_get_indexdef(i.indexrelid), i.indisvalid)
  FROM pg_index i JOIN relations c ON c.oid = i.indexrelid
UNION ALL
SELECT concat_ws('|', 'function', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid),
                 md5(CASE WHEN p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) ELSE p.prosrc END))
  FROM pg_proc p JOIN mine n ON n.oid = p.pronamespace
 WHERE p.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_proc'::regclass)
UNION ALL
SELECT concat_ws('|', 'trigger', c.nspname, pg_get_triggerdef(t.oid), t.tgenabled)
  FROM pg_trigger t JOIN relations c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
UNION ALL
SELECT concat_ws('|', 'enum', n.nspname, y.typname, string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder))
  FROM pg_enum e JOIN pg_type y ON y.oid = e.enumtypid JOIN mine n ON n.oid = y.typnamespace
 WHERE y.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_type'::regclass)
 GROUP BY n.nspname, y.typname
UNION ALL
SELECT concat_ws('|', 'domain', n.nspname, y.typname, format_type(y.typbasetype, y.typtypmod), y.typnotnull,
                 y.typdefault)
  FROM pg_type y JOIN mine n ON n.oid = y.typnamespace WHERE y.typtype = 'd'
UNION ALL
SELECT concat_ws('|', 'policy', c.nspname, c.relname, p.polname, p.polcmd, p.polpermissive,
                 p.polroles::regrole[]::text, pg_get_expr(p.polqual, p.polrelid),
                 pg_get_expr(p.polwithcheck, p.polrelid))
  FROM pg_policy p JOIN relations c ON c.oid = p.polrelid"""

# An INVALID plain index comes only from a CONCURRENTLY that failed; on a partitioned table it is what ON ONLY
# means. A NOT VALID constraint is always asked for. So only the first is judged.
_INVALID: Final = """
SELECT format('%%I.%%I', n.nspname, c.relname)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT i.indisvalid AND c.relkind = 'i'
   AND (i.indrelid IN (SELECT to_regclass(t) FROM unnest(%(tables)s::text[]) AS t)
        OR i.indexrelid IN (SELECT to_regclass(x) FROM unnest(%(indexes)s::text[]) AS x)
        OR i.xmin::text::bigint = ANY (%(xids)s))
   AND NOT i.indexrelid = ANY (%(before)s)
 ORDER BY 1"""


def fingerprint(session: Session, schemas: Sequence[str]) -> str:
    """Lower-case hexadecimal SHA-256 over the objects of *schemas*; equal for equal definitions.

    The definitions are written by PostgreSQL with names as search_path needs them, which is a session's own.
    """
    lines = sorted(line for (line,) in session.execute(_LINES, {"schemas": list(schemas)}))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def invalid_indexes(
    session: Session,
    *,
    tables: Collection[str] = (),
    indexes: Collection[str] = (),
    txids: Collection[int] = (),
    before: Collection[int] = (),
) -> list[str]:
    """INVALID indexes of a plan: on *tables* it built indexes on, by name, or made by its transactions.

    *before*: OIDs of indexes that were there already, which are not the plan's.
    """
    params = {
        "tables": list(tables),
        "indexes": list(indexes),
        "xids": [txid % 2**32 for txid in txids],
        "before": list(before),
    }
    return [name for (name,) in session.execute(_INVALID, params)]
