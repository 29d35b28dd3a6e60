"""What the database does besides when rows are added: triggers, rules, functions of defaults and conditions.

No statement of a migration says so, and what they destroy no down script brings back.
"""

from collections.abc import Collection
from typing import Final

from godwit.engine.classify import body_dangerous
from godwit.engine.session import Session

# Rows that are added to a partitioned table, or through a view, are added to others. Of a trigger's events
# INSERT is 4 (src/include/catalog/pg_trigger.h), of a rule's 3. Functions that are not volatile cannot write
# (manual, section 38.7); those in C are taken to be an extension's or PostgreSQL's own.
_BESIDES: Final = """
WITH named AS (SELECT to_regclass(name) AS oid FROM unnest(%s::text[]) AS name),
     added AS (SELECT oid FROM named WHERE oid IS NOT NULL
               UNION SELECT relid FROM named, pg_partition_tree(oid)),
     called AS (
         SELECT tgfoid AS oid FROM pg_trigger
          WHERE tgrelid IN (SELECT oid FROM added) AND tgtype & 4 > 0
            AND NOT tgisinternal AND tgenabled <> 'D'
         UNION
         SELECT d.refobjid FROM pg_depend d
          WHERE d.refclassid = 'pg_proc'::regclass
            AND (d.classid, d.objid) IN (
                SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM added)
                UNION ALL
                SELECT 'pg_constraint'::regclass, oid FROM pg_constraint
                 WHERE contype = 'c' AND conrelid IN (SELECT oid FROM added)))
SELECT l.lanname, coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)
  FROM called JOIN pg_proc p USING (oid) JOIN pg_language l ON l.oid = p.prolang
 WHERE p.provolatile = 'v' AND l.lanname NOT IN ('c', 'internal')
UNION ALL
SELECT '', '' FROM added JOIN pg_class c USING (oid)
 WHERE c.relkind = 'v' OR EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid AND ev_type = '3')"""


def destroys_besides(session: Session, tables: Collection[str]) -> bool:
    """Whether data may be destroyed when rows are added to *tables*, named as SQL, as they stand now.

    A table that is not there counts for nothing. Writes nothing. Raises psycopg.Error.
    """
    if not tables:
        return False
    found = session.execute(_BESIDES, [sorted(tables)]).fetchall()
    return any(body_dangerous(language, body) for language, body in found)
