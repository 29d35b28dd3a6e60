"""What goes with an object of the catalog, or is made of it: a part of the query that looks at locks.

pg_depend says which object needs which (manual, section 52.18); a DROP locks all tables that it comes to,
those whose index, default, condition, trigger, policy or column goes, among them (seen in pg_locks).
"""

from typing import Final

# Reads `asked` (name, oid of a relation, conflicts, way, part, kind); gives `dependents` (relation,
# conflicts). The types that a function takes are a list in JSON: before PostgreSQL 16 to_regprocedure fails
# where one of them is not there. A view's rule stands for the view. From a type, by the ways `columns` and
# `typed`, it goes to tables and no further: by their columns, or as a whole where they are OF it.
DEPENDENTS: Final = """
begun AS (
  SELECT o.class, o.oid, o.sub, a.way, a.conflicts
    FROM asked a CROSS JOIN LATERAL (
      SELECT 'pg_class'::regclass AS class, a.oid,
             coalesce((SELECT attnum FROM pg_attribute
                        WHERE attrelid = a.oid AND attname = a.part), 0)::int AS sub
       WHERE a.kind = 'pg_class'
      UNION ALL SELECT 'pg_constraint'::regclass, oid, 0 FROM pg_constraint
                 WHERE a.kind = 'pg_constraint' AND conrelid = a.oid AND conname = a.part
      UNION ALL SELECT 'pg_type'::regclass, to_regtype(a.name), 0 WHERE a.kind = 'pg_type'
      UNION ALL SELECT 'pg_proc'::regclass, p.oid, 0
                  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                 WHERE a.kind = 'pg_proc'
                   AND (quote_ident(p.proname) = a.name AND pg_function_is_visible(p.oid)
                        OR format('%%I.%%I', n.nspname, p.proname) = a.name)
                   AND (a.part = '' OR p.proargtypes::text = (
                        SELECT coalesce(string_agg(coalesce(to_regtype(t)::oid, 0)::text, ' ' ORDER BY i), '')
                          FROM json_array_elements_text(CASE a.kind WHEN 'pg_proc' THEN a.part END::json)
                               WITH ORDINALITY AS taken (t, i)))
      UNION ALL SELECT 'pg_namespace'::regclass, to_regnamespace(a.name), 0 WHERE a.kind = 'pg_namespace'
      UNION ALL SELECT 'pg_collation'::regclass, to_regcollation(a.name), 0 WHERE a.kind = 'pg_collation'
      UNION ALL SELECT 'pg_extension'::regclass, oid, 0 FROM pg_extension
                 WHERE a.kind = 'pg_extension' AND quote_ident(extname) = a.name) AS o
   WHERE a.way IN ('columns', 'dependent', 'typed')
), gone AS (
  SELECT class, oid, sub, way, conflicts FROM begun
   UNION
  SELECT CASE WHEN r.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END,
         CASE WHEN r.oid IS NULL THEN d.objid ELSE r.ev_class END, d.objsubid, g.way, g.conflicts
    FROM gone g
    JOIN pg_depend d ON d.refclassid = g.class AND d.refobjid = g.oid AND g.sub IN (0, d.refobjsubid)
    LEFT JOIN pg_rewrite r
      ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid AND r.rulename = '_RETURN'
   WHERE g.way = 'dependent' OR g.class = 'pg_type'::regclass
), dependents AS (
  SELECT CASE g.class
         WHEN 'pg_class'::regclass
         THEN coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = g.oid), g.oid)
         WHEN 'pg_constraint'::regclass THEN (SELECT conrelid FROM pg_constraint WHERE oid = g.oid)
         WHEN 'pg_trigger'::regclass THEN (SELECT tgrelid FROM pg_trigger WHERE oid = g.oid)
         WHEN 'pg_attrdef'::regclass THEN (SELECT adrelid FROM pg_attrdef WHERE oid = g.oid)
         WHEN 'pg_policy'::regclass THEN (SELECT polrelid FROM pg_policy WHERE oid = g.oid)
         WHEN 'pg_rewrite'::regclass THEN (SELECT ev_class FROM pg_rewrite WHERE oid = g.oid)
         END AS relation, g.conflicts
    FROM gone g
   WHERE g.way = 'dependent' OR g.class = 'pg_class'::regclass AND (g.sub > 0) = (g.way = 'columns')
)"""
