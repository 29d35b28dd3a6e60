"""What stands in the way of a restore by swap on this server, asked before anything is promised or begun."""

from typing import Final

from godwit.engine.session import Session

_RIGHTS: Final = """
SELECT r.rolsuper OR r.rolcreatedb, r.rolsuper OR pg_has_role(d.datdba, 'USAGE'), current_user,
       pg_get_userbyid(d.datdba)
  FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user"""

_PREPARED: Final = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"

_SLOTS: Final = """
SELECT coalesce(string_agg(slot_name, ', ' ORDER BY slot_name), '') FROM pg_replication_slots
 WHERE database = current_database()"""

_SUBSCRIPTIONS: Final = """
SELECT coalesce(string_agg(s.subname, ', ' ORDER BY s.subname), '')
  FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()"""

# A role may end sessions of roles that it is a member of, or all but superusers' with pg_signal_backend
# (PostgreSQL manual, section 9.28.2).
_SESSIONS: Final = """
SELECT coalesce(string_agg(DISTINCT a.usename::text, ', '), '')
  FROM pg_stat_activity a JOIN pg_roles u ON u.oid = a.usesysid, pg_roles me
 WHERE me.rolname = current_user AND a.datname = current_database() AND a.pid <> pg_backend_pid()
   AND NOT me.rolsuper
   AND (u.rolsuper OR NOT (pg_has_role(u.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')))"""

_EXTENSIONS: Final = """
SELECT coalesce(string_agg(DISTINCT e.extname::text, ', '), '')
  FROM pg_extension e
  JOIN pg_available_extension_versions v ON v.name = e.extname AND v.version = e.extversion,
       pg_roles me
 WHERE me.rolname = current_user AND NOT me.rolsuper AND v.superuser AND NOT v.trusted
   AND e.extname <> 'plpgsql'"""

# pg_restore makes them in the version that is the server's default now.
_VERSIONS: Final = """
SELECT coalesce(string_agg(format('%s %s', e.extname, e.extversion), ', ' ORDER BY e.extname), '')
  FROM pg_extension e LEFT JOIN pg_available_extensions a ON a.name = e.extname
 WHERE a.default_version IS DISTINCT FROM e.extversion"""

# What is made anew is given to its owner again; members of extensions come with these.
_OWNED: Final = """
  FROM (SELECT 'pg_class'::regclass, oid, relowner, relnamespace FROM pg_class
         WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
        UNION ALL SELECT 'pg_type'::regclass, oid, typowner, typnamespace FROM pg_type
         WHERE typtype IN ('d', 'e')
        UNION ALL SELECT 'pg_proc'::regclass, oid, proowner, pronamespace FROM pg_proc
        UNION ALL SELECT 'pg_namespace'::regclass, oid, nspowner, oid FROM pg_namespace)
       AS o (class, oid, owner, namespace)
  JOIN pg_namespace n ON n.oid = o.namespace
  JOIN pg_roles me ON me.rolname = current_user
 WHERE o.oid >= 16384 AND n.nspname !~ '^pg_' AND NOT me.rolsuper
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype = 'e')
"""
_OWNERS: Final = f"""
SELECT coalesce(string_agg(DISTINCT pg_get_userbyid(o.owner)::text, ', '), '') {_OWNED}
   AND NOT pg_has_role(o.owner, '{{act}}')"""

# pg_restore grants last: until then only who owns a schema may have, or be given, anything in it.
_SCHEMAS: Final = f"""
SELECT coalesce(string_agg(DISTINCT format('%s of %s', n.nspname, pg_get_userbyid(n.nspowner)), ', '), '')
{_OWNED}
   AND NOT (pg_has_role(o.owner, n.nspowner, 'USAGE') AND pg_has_role(n.nspowner, 'USAGE'))
   AND NOT (n.nspname = 'public' AND {{open}})"""

# ALTER ROLE ... IN DATABASE is for the role itself and for who made it (with ADMIN since 16); some settings,
# and those that no loaded library knows, are for superusers, and since 15 for whom they granted them to
# (PostgreSQL manual, ALTER ROLE, GRANT; validate_option_array_item in guc.c).
_SETTINGS: Final = """
SELECT coalesce(string_agg(DISTINCT g.name || coalesce(' of role ' || r.rolname, ''), ', '), '')
  FROM pg_db_role_setting s
  JOIN pg_database d ON d.oid = s.setdatabase
  JOIN pg_roles me ON me.rolname = current_user
  LEFT JOIN pg_roles r ON r.oid = s.setrole,
       LATERAL (SELECT split_part(unnest(s.setconfig), '=', 1)) AS g (name)
  LEFT JOIN pg_settings p ON lower(p.name) = lower(g.name)
 WHERE d.datname = current_database() AND NOT me.rolsuper
   AND (r.oid <> me.oid AND NOT ({alter})
        OR (p.context IN ('superuser', 'superuser-backend') OR p.name IS NULL AND g.name LIKE '%.%')
           AND NOT ({give}))"""

_TEXT: Final = {
    _PREPARED: "prepared transactions are open in it ({})",
    _SLOTS: "logical replication slots would stay with the former database ({}), unless that is accepted",
    _SUBSCRIPTIONS: "its subscriptions would stay with the former database ({}), unless that is accepted",
    _SESSIONS: "the role may not end the sessions of {} (GRANT pg_signal_backend; superusers' never)",
    _EXTENSIONS: "only a superuser can create its extensions {}",
    _VERSIONS: "its extensions would not come back in their version ({}; ALTER EXTENSION UPDATE)",
    _OWNERS: "the role may not act as {}, who own objects in it (GRANT these roles to it)",
    _SCHEMAS: "pg_restore could not make the objects of other roles in {}, for it grants CREATE last",
    _SETTINGS: "the role may not give the database its settings again ({})",
}


_REPLICATION: Final = (_SLOTS, _SUBSCRIPTIONS)


def swap_obstacles(live: Session, *, replication_accepted: bool = False) -> list[str]:
    """Why the database of *live* cannot be replaced by a restored one; empty where it can. Writes nothing.

    *replication_accepted*: logical slots and subscriptions stay with the former database, and that is known.
    What only a try can tell (space on disk, a managed service that forbids renaming) is not in it.
    """
    row = live.execute(_RIGHTS).fetchone()
    may_create, owns, user, owner = row or (False, False, "", "")
    found = []
    if not may_create:
        found.append(f"role {user} lacks CREATEDB, which making and renaming databases needs")
    if not owns:
        found.append(f"role {user} does not own the database, {owner} does")
    version = live.server_version
    rights = {
        "{act}": "SET" if version >= 160_000 else "MEMBER",
        "{open}": "false" if version >= 150_000 else "true",
        "{alter}": "me.rolcreaterole AND NOT r.rolsuper"
        + (" AND pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION')" if version >= 160_000 else ""),
        "{give}": "has_parameter_privilege(g.name, 'SET')" if version >= 150_000 else "false",
    }
    for query, text in _TEXT.items():
        if replication_accepted and query in _REPLICATION:
            continue
        statement: str = query
        for place, right in rights.items():
            statement = statement.replace(place, right)
        (value,) = live.execute(statement).fetchone() or ("",)
        if value:
            found.append(text.format(value))
    return found
