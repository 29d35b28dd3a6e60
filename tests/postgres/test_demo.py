"""The demo: what it shows is so, and where something is not, it says so and fails."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from godwit.cli.demo import run_demo
from godwit.cli.demo_show import Show, bar

GODWIT = Path(sys.executable).parent / "godwit"


def played(folder: Path, *, keep: bool = False) -> tuple[int, str]:
    """Exit status and text of a demo without a terminal."""
    text = io.StringIO()
    status = run_demo(folder, keep=keep, show=Show(Console(file=text, soft_wrap=True, highlight=False)))
    return status, text.getvalue()


def in_order(text: str, *parts: str) -> bool:
    """Whether the parts stand in the text, one after the other."""
    at = 0
    for part in parts:
        at = text.find(part, at) + len(part)
        if at < len(part):
            pytest.fail(f"{part!r} is not there, or not in its place, in:\n{text}")
    return True


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_demo_tells_its_story_without_a_terminal_and_leaves_nothing(server_folder):
    folder = server_folder / "demo"
    done = subprocess.run(
        [GODWIT, "demo", "--folder", folder], capture_output=True, text=True, check=False, timeout=200
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert in_order(
        done.stdout,
        "kind: PostgresDatabase",
        "kind: DatabaseMigration",
        "5 migrations to apply, 23 statements",
        "20260105090000_init ",
        "Findings: none",
        "] 4/4 apply",
        "ok  Ready",
        "databasemigration.godwit.dev/bookshop",
        "2. A migration that fails",
        "MigrationFailed in 20260316093000_add_points line 4 (SQLSTATE 23505)",
        "ok  pg_dump before and after",
        "ok  Ready again",
        "targetVersion: 20260216140000_index_orders_by_customer",
        "1 of 1 taken back",
        "20260302110000_add_reviews is gone from schema and history",
        "Three commands to try next",
    )
    assert "\x1b" not in done.stdout, "no colours without a terminal"
    assert "postgres:" not in done.stdout.replace("postgresql://***", ""), "no password"
    assert not folder.exists()


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        pytest.param(
            "demo_manifests.FAILING_SQLSTATE", "23503", "could not create unique", id="another-error"
        ),
        pytest.param(
            "demo_stage.Stage.dump", lambda stage: stage.psql("SELECT random()"), "has changed", id="a-change"
        ),
    ],
)
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_demo_that_is_not_as_it_says_fails_and_keeps_its_logs(
    place, value, says, server_folder, monkeypatch
):
    monkeypatch.setattr(f"godwit.cli.{place}", value)
    folder = server_folder / place

    status, text = played(folder)

    assert status == 1
    assert in_order(text, "Not so:", says)
    assert (folder / "operator.log").exists()
    assert not (folder / "server" / "data" / "postmaster.pid").exists(), "the server was stopped"


def test_a_folder_that_exists_is_left_alone(server_folder):
    folder = server_folder / "taken"
    folder.mkdir()

    status, text = played(folder)

    assert status == 1
    assert "cannot make its folder" in text
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("done", "total", "expected"),
    [
        (0, 4, "[--------------------] 0/4"),
        (1, 4, "[#####---------------] 1/4"),
        (4, 4, "[####################] 4/4"),
        (5, 4, "[####################] 5/4"),
    ],
)
def test_a_bar_is_never_more_than_full(done, total, expected):
    assert bar(done, total) == expected
