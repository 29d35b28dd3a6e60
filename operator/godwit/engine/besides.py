"""What the database does besides when rows are added: triggers, rules, functions of defaults and conditions.

No statement of a migration says so, and what they destroy no down script brings back.
"""

import json
from collections.abc import Collection
from typing import Final

from godwit.engine.classify import body_dangerous
from godwit.engine.repeated import Repeated
from godwit.engine.session import Session

# Whether there can be anything of the kind at all, in a tenth of the time that it takes to find out what. In
# most databases no function that may write was ever made, nor a rule. What is not PostgreSQL's own has an OID
# from 16384 on (src/include/access/transam.h), so none of the two tables is read whole; 12 and 13 are the
# languages internal and c (src/include/catalog/pg_language.dat).
_ANY: Final = Repeated(
    """
SELECT EXISTS (SELECT FROM pg_proc WHERE oid >= 16384 AND provolatile = 'v' AND prolang NOT IN (12, 13))
    OR EXISTS (SELECT FROM pg_rewrite WHERE oid >= 16384 AND ev_type = '3')
    OR EXISTS (SELECT FROM pg_class WHERE relkind = 'v' AND oid = ANY (ARRAY(
                  SELECT to_regclass(name)::oid FROM json_array_elements_text(%(tables)s::json) AS name)))""",
    tables="json",
)
# Rows that are added to a partitioned table, or through a view, are added to others. Of a trigger's events
# INSERT is 4 (src/include/catalog/pg_trigger.h), of a rule's 3. Functions that are not volatile cannot write
# (manual, section 38.7); those in C are taken to be an extension's or PostgreSQL's own.
_BESIDES: Final = """
WITH named AS (SELECT to_regclass(name) AS oid FROM json_array_elements_text(%s::json) AS name),
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


def destroys_besides(session: Session, tables: Collection[str], *, repeated: bool = False) -> bool:
    """Whether data may be destroyed when rows are added to *tables*, named as SQL, as they stand now.

    A table that is not there counts for nothing. *repeated*: as `Session.repeat`. Writes nothing. Raises
    psycopg.Error.
    """
    if not tables:
        return False
    names = json.dumps(sorted(tables))
    values = {"tables": names}
    some = session.repeat(_ANY, values) if repeated else session.later(_ANY.query, values)
    if some.fetchall() == [(False,)]:
        return False
    found = session.execute(_BESIDES, [names]).fetchall()
    return any(body_dangerous(language, body) for language, body in found)
