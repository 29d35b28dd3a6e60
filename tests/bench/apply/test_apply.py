"""The same migrations onto the same empty database, by psql, by Godwit and by other tools, in turns."""

import os
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apply import folders
from apply.contenders import Godwit, Psql
from apply.folders import Migration
from apply.peers import peers
from apply.steps import NotThroughError

from godwit.cli.embedded import EmbeddedPostgres

TEAM = os.environ.get("GODWIT_BENCH_FOLDER", "")
"""A published Prisma folder to measure with as well."""
ROUNDS = {10: 7, 100: 5, 1000: 3}
_ROOM = 100
SETS = [*map(str, ROUNDS), *(["team"] if TEAM else [])]


def migrations_of(which: str) -> list[Migration]:
    return folders.of_a_team(Path(TEAM)) if which == "team" else folders.generated(int(which))


@pytest.mark.parametrize("which", SETS)
def test_apply_beside_others(
    which: str,
    default_server: EmbeddedPostgres,
    database_on: Callable[..., Any],
    tmp_path: Path,
    record: Any,
) -> None:
    migrations = migrations_of(which)
    rounds = ROUNDS.get(len(migrations), 3)
    floor = Psql("psql, one session", whole=True)
    contenders = [floor, Psql("psql, one session, no transactions", whole=False), Godwit(), *peers()]
    for index, contender in enumerate(contenders):
        (tmp_path / str(index)).mkdir()
        contender.prepare(tmp_path / str(index), migrations)
    seconds: dict[str, list[float]] = {c.name: [] for c in contenders}
    aside: dict[str, str] = {}
    schema = ""
    for turn in range(rounds + 1):
        for contender in [c for c in contenders if c.name not in aside]:
            database = database_on(default_server)
            default_server.psql("CHECKPOINT")
            try:
                measured = contender.apply(database)
            except NotThroughError as failed:
                # A team wrote its files for one tool: another one need not be able to run them.
                if which != "team" or contender.name in {floor.name, Godwit.name}:
                    raise
                aside[contender.name] = why(str(failed))
                print(f"{contender.name} stands aside: {failed}")
                continue
            if turn == 0:  # compiles, and fills the machine's caches; the result is looked at instead
                schema = schema or tables_and_functions(database)
                assert tables_and_functions(database) == schema, contender.name
            else:
                seconds[contender.name].append(measured.seconds)
            default_server.drop_database(database.name)
    base = seconds[floor.name]
    rows = [("", "min s", "median s", "max s", "ratio", "ms a migration")]
    for name, taken in seconds.items():
        if name in aside:
            rows.append((f"{name}: {aside[name]}", *["-"] * 5))
            continue
        median = statistics.median(taken)
        ratio = statistics.median(one / other for one, other in zip(taken, base, strict=True))
        each = f"{median * 1000 / len(migrations):.1f}"
        rows.append((name, *(f"{s:.2f}" for s in (min(taken), median, max(taken))), f"{ratio:.2f}", each))
    what = f"{len(migrations)} migrations" + (" of a team" if which == "team" else "")
    record(f"apply-{which}", f"{what}, {rounds} rounds", rows)


def why(printed: str) -> str:
    """The last line of a tool's own words that speaks of an error, cut to what a table has room for."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    told = [line for line in lines if re.search(r"error|fail", line, re.IGNORECASE)] or lines
    return told[-1].replace("|", "/")[:_ROOM]


def tables_and_functions(database: Any) -> str:
    """What stands after, whatever tables a tool has of its own."""
    text: str = database.psql(
        "SELECT c.relname, c.relkind, a.attname, a.atttypid::regtype FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a ON a.attrelid = c.oid "
        "WHERE n.nspname = 'public' AND c.relname !~ '^(_prisma|schema_mig|goose_|flyway_|atlas_)' "
        "AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2, a.attnum"
    )
    return text
