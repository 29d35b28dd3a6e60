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

_TEXT: Final = {
    _PREPARED: "prepared transactions are open in it ({})",
    _SLOTS: "logical replication slots would stay with the former database ({}), unless that is accepted",
    _SUBSCRIPTIONS: "its subscriptions would stay with the former database ({}), unless that is accepted",
    _SESSIONS: "the role may not end the sessions of {} (GRANT pg_signal_backend; superusers' never)",
    _EXTENSIONS: "only a superuser can create its extensions {}",
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
    for query, text in _TEXT.items():
        if replication_accepted and query in _REPLICATION:
            continue
        (value,) = live.execute(query).fetchone() or ("",)
        if value:
            found.append(text.format(value))
    return found
