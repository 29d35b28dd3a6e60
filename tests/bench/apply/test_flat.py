"""What a migration costs, and how much memory a step takes, with 100 and with fifty times as many."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from apply import folders
from apply.contenders import Psql
from apply.steps import Runner

from godwit.cli.embedded import EmbeddedPostgres
from godwit.contract.outcome import ApplyOutcome

SIZES = (100, 1000, 5000)


def test_cost_of_a_migration_by_their_number(
    default_server: EmbeddedPostgres, database_on: Callable[..., Any], tmp_path: Path, record: Any
) -> None:
    rows = [
        (
            "migrations",
            "psql ms each",
            "Apply, Verify ms each",
            "of it our CPU",
            "peak MiB",
            "Plan s",
            "peak MiB",
        )
    ]
    for size in (SIZES[0], *SIZES):  # the first one compiles
        migrations = folders.generated(size)
        folder = tmp_path / f"{size}-{len(rows)}"
        (folder / "psql").mkdir(parents=True)
        psql = Psql("psql", whole=True)
        psql.prepare(folder / "psql", migrations)
        runner = Runner(folder, tmp_path / "compiled")
        folders.prisma(runner.source, migrations)
        by_psql, by_us = database_on(default_server), database_on(default_server)
        default_server.psql("CHECKPOINT")
        floor = psql.apply(by_psql)
        default_server.drop_database(by_psql.name)
        default_server.psql("CHECKPOINT")
        planned, planning = runner.plan(by_us.uri)
        outcome, applying = runner.apply(by_us.uri, planned)
        applied = outcome.get(ApplyOutcome)
        assert applied is not None
        assert applied.applied == size
        default_server.drop_database(by_us.name)
        rows.append(
            (
                str(size),
                f"{floor.seconds * 1000 / size:.2f}",
                f"{applying.seconds * 1000 / size:.2f}",
                f"{applying.cpu * 1000 / size:.2f}",
                f"{applying.peak_mib:.0f}",
                f"{planning.seconds:.2f}",
                f"{planning.peak_mib:.0f}",
            )
        )
    del rows[1]
    record("flat", "Time and memory by the number of migrations", rows)
