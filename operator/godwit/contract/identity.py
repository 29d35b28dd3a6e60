"""Which database, whatever its address is today."""

from godwit.contract.base import Model


class DatabaseIdentity(Model):
    """A database as PostgreSQL itself tells it.

    `system_identifier` is that of the cluster (`pg_control_system()`), `database_oid` the OID in
    `pg_database`;
    the two decide. Host, port and name are for people: they change with DNS and with a rename.
    """

    system_identifier: str
    database_oid: int
    host: str = ""
    port: int = 5432
    name: str = ""

    def same_database(self, other: "DatabaseIdentity") -> bool:
        """Whether both are the same database of the same cluster (address and name do not count)."""
        return (self.system_identifier, self.database_oid) == (other.system_identifier, other.database_oid)

    @property
    def key(self) -> str:
        """The deciding part as text, for digests and journal rows: `<system identifier>/<oid>`."""
        return f"{self.system_identifier}/{self.database_oid}"
