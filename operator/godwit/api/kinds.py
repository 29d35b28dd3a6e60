"""All five kinds by name."""

from typing import Any

from godwit.api.backup import DatabaseBackup
from godwit.api.common import Resource
from godwit.api.database import PostgresDatabase
from godwit.api.migration import DatabaseMigration
from godwit.api.restore import DatabaseRestore
from godwit.api.run import MigrationRun

KINDS: dict[str, type[Resource]] = {
    kind.KIND: kind
    for kind in (PostgresDatabase, DatabaseMigration, MigrationRun, DatabaseBackup, DatabaseRestore)
}


def parse(manifest: dict[str, Any]) -> Resource:
    """The custom resource in *manifest*.

    Raises KeyError for another kind, ValueError where it does not fit.
    """
    return KINDS[manifest["kind"]].model_validate(manifest)
