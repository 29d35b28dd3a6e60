"""What Godwit has to know of a migration tool: its folder, its history table, its lock.

One module for each tool meets this interface as a whole. The folder's functions are pure; the history's run
on the session that they are given, in its open transaction where there is one, and raise psycopg.Error.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from godwit.engine.model import History, HistoryRow, Migration, PlannedMigration, Script, Source
from godwit.engine.session import Session


class MigrationFormat(Protocol):
    """A tool's layout of files, and the rows that the tool itself would read and write."""

    @property
    def TABLES(self) -> tuple[str, ...]:  # noqa: N802  a module's constant
        """Names of the tool's own tables: no data of the application.

        They are in the session's schema, or in one that has the table's name.
        """

    @property
    def STRICT_ORDER(self) -> bool:  # noqa: N802  as above
        """Whether the tool refuses a pending migration that is older than an applied one."""

    @property
    def NEWEST_ONLY(self) -> bool:  # noqa: N802  as above
        """Whether the history knows the newest migration only, which stands for all before it."""

    @property
    def RECORDS_FAILURES(self) -> bool:  # noqa: N802  as above
        """Whether the history knows of a migration that failed half way, so that it is not run again."""

    def wanted(self, path: str) -> bool:
        """Whether the tool would look at the file at *path*, relative to the folder."""

    def build(self, files: Mapping[str, bytes]) -> Source:
        """The source in *files*, keyed by path below the folder.

        Raises StepFailed: SourceInvalid, EncodingInvalid, ProviderMismatch.
        """

    def sort_key(self, name: str) -> Any:
        """The tool's order of migrations, by name."""

    def same_script(self, stored: str, script: Script) -> bool:
        """Whether the history's checksum is that of *script*, as the tool compares them."""

    def pending(self, source: Source, history: History) -> tuple[Migration, ...]:
        """What of *source* the tool would apply, in its order."""

    def fill(self, history: History, source: Source, besides: Collection[str] = ()) -> History:
        """*history* with the rows that it implies but does not hold, as *source* and *besides* tell them."""

    def advisory_key(self, session: Session) -> int:
        """Key of the session lock (`pg_advisory_lock`) that the tool takes while it migrates."""

    def read_history(self, session: Session) -> History:
        """What the history says; no table is a history of its own. Writes nothing."""

    def ensure_table(self, session: Session) -> None:
        """Make the schema and the history table where they are missing."""

    def lock_history(self, session: Session) -> None:
        """Keep other writers off the history until the transaction ends, also without the lock; later."""

    def record_started(self, session: Session, planned: PlannedMigration) -> str:
        """Add what the tool writes before it runs a migration outside a transaction. Returns the row's id."""

    def record_statement(self, session: Session, row_id: str, planned: PlannedMigration, done: int) -> None:
        """Say in a started row that the first *done* statements are applied, where the tool counts them."""

    def record_finished(self, session: Session, row_id: str) -> None:
        """Mark a started row as applied."""

    def record_failed(self, session: Session, row_id: str, logs: str, statement: str) -> None:
        """Keep the error text and the statement, free of secrets and row data, where the tool has a place."""

    def record_rolled_back(self, session: Session, row_id: str, previous: str) -> None:
        """Mark an unfinished row as rolled back: free to be tried again. *previous* as in `remove_row`."""

    def record_applied_in_transaction(self, session: Session, planned: PlannedMigration) -> str:
        """Add the finished row of a migration inside its own transaction; later. Returns the row's id."""

    def remove_row(self, session: Session, name: str, previous: str) -> tuple[HistoryRow, ...]:
        """Delete the rows of a migration that was taken back, and give them as `read_history` did.

        *previous* is the migration that is the newest one then; empty: none is applied.
        """


class ResolvingFormat(MigrationFormat, Protocol):
    """A tool whose history can be told what became of a migration, without running anything."""

    def mark_applied(self, session: Session, migration: Migration) -> str:
        """Add the row of a migration whose work is in the database already. Returns the row's id."""

    def mark_rolled_back(
        self, session: Session, row_ids: Sequence[str], previous: str
    ) -> list[dict[str, Any]]:
        """Mark failed rows as rolled back: free to be tried again. Returns them as they were, with `id`.

        *previous* as in `remove_row`.
        """

    def unmark(
        self,
        session: Session,
        made: Sequence[str],
        rolled_back: Sequence[Mapping[str, Any]],
        before: Sequence[HistoryRow],
    ) -> None:
        """Undo both: remove the rows *made*, and have those *rolled_back* as they were, also if removed.

        *before*: the rows that are gone since, for a history that knows only the newest.
        """


class BaseliningFormat(ResolvingFormat, Protocol):
    """A tool with a word of its own for what a database had before its history began."""

    def mark_baseline(self, session: Session, version: str) -> str:
        """Say that everything up to *version* is there; the history is empty. Returns the row's id."""
