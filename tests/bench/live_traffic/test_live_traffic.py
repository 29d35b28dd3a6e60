"""What an application notices while a database is migrated, by Godwit and by psql, on primary and standby."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from project import Project
from standby import caught_up, standby
from tables import write_table
from traffic import SCENARIOS, Seen, prepare, traffic

from godwit.cli.embedded import EmbeddedPostgres
from godwit.contract.policy import Environment, Policy

ROWS = 300_000
POLICY = Policy(environment=Environment.PRODUCTION)
ALLOWED_S = (POLICY.lock_timeout_ms + POLICY.max_lock_hold_ms) / 1000
REPORT = (4.0, 6.0)
BEFORE_S = 1.0
RESULTS = Path(__file__).parents[3] / "build" / "live_traffic.json"
"""Scenarios can be measured one at a time: the table is made of all that were."""
HEAD = (
    *("scenario", "by", "seconds", "queries", "failed", "longest, ms", "p99, ms"),
    *("standby: failed", "longest, ms", "p99, ms"),
)


@pytest.fixture(scope="module")
def primary(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A server with PostgreSQL's own settings, so with fsync, synchronous_commit and autovacuum on."""
    with EmbeddedPostgres(server_folder / "primary") as server:
        yield server


@pytest.fixture(scope="module")
def replica(primary: EmbeddedPostgres, server_folder: Path) -> Iterator[EmbeddedPostgres]:
    with standby(primary, server_folder / "standby", slot="reading") as server:
        yield server


def by_godwit(project: Project) -> None:
    """As a step does it: Plan, Apply, Verify, with Production's defaults."""
    plan = project.plan(policy=POLICY)
    project.deploy("u1", plan=plan, policy=POLICY, environment=Environment.PRODUCTION)


def by_psql(project: Project) -> None:
    """One psql session over the same files, each in a transaction where it can be in one."""
    words = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
    for file in sorted(project.folder.glob("*/migration.sql")):
        if file.parent.name != "000_shop":
            script = ("-f", str(file))
            alone = "CONCURRENTLY" in file.read_text()
            words += script if alone else ("-c", "BEGIN", *script, "-c", "COMMIT")
    project.database.server.run("psql", *words, database=project.database.name)


def nobody(_: Project) -> None:
    """No migration at all: what the traffic itself meets."""
    time.sleep(8)


def measure(
    project: Project, replica: EmbeddedPostgres, scenario: str, act: Callable[[Project], None]
) -> list[object]:
    prepare(project, scenario, ROWS, environment=Environment.PRODUCTION)
    caught_up(project.database.server, replica)
    # Longer than anything that is allowed, so that what psql does is seen in full.
    load: dict[str, Any] = {"rows": ROWS, "period": 0.02, "patience": 60}
    with (
        traffic(replica.uri(project.database.name), writes=False, clients=3, **load) as reading,
        # The last to begin: whoever migrates meets a report that has a while to go.
        traffic(project.uri, writes=True, clients=5, report=REPORT, **load) as writing,
    ):
        time.sleep(BEFORE_S)
        began = time.time()
        act(project)
        took = time.time() - began
        caught_up(project.database.server, replica)
        time.sleep(BEFORE_S)
    print(scenario, act.__name__, writing.failed[:3], reading.failed[:3])
    return [took, len(writing.queries), *_told(writing, began), *_told(reading, began)]


def _told(seen: Seen, since: float) -> list[object]:
    return [len(seen.failed), round(seen.longest(since) * 1000), round(seen.p99(since) * 1000)]


@pytest.fixture
def fresh(
    primary: EmbeddedPostgres, database_on: Callable[..., Any], tmp_path: Path
) -> Callable[[], Project]:
    def make() -> Project:
        database = database_on(primary)
        folder = tmp_path / database.name
        folder.mkdir()
        return Project(database, folder, database.uri)

    return make


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_traffic_goes_on(
    fresh: Callable[[], Project], replica: EmbeddedPostgres, show: Any, scenario: str
) -> None:
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    acts = {"psql": by_psql, "Godwit": by_godwit}
    if "nobody" not in found:
        acts = {"nobody": nobody, **acts}
    rows = {name: measure(fresh(), replica, scenario, act) for name, act in acts.items()}
    ours = rows["Godwit"]
    assert (ours[2], ours[5]) == (0, 0), "a query of the application failed"
    found |= {"nobody": {"nobody": rows["nobody"]}} if "nobody" in rows else {}
    found[scenario] = {name: rows[name] for name in ("psql", "Godwit")}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found))
    order = ["nobody", *(name for name in SCENARIOS if name in found)]
    table = [
        (("no migration", "") if name == "nobody" else (name, by)) + tuple(row)
        for name in order
        for by, row in found[name].items()
    ]
    title = f"Traffic on {ROWS:,} orders while they are migrated; allowed: {ALLOWED_S * 1000:.0f} ms"
    show(title, [HEAD, *table])
    write_table("live-traffic", title, [HEAD, *table])
