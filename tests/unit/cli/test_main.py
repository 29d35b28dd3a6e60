"""The command: what each subcommand loads, what it is told, how it ends."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import godwit
from godwit.cli.main import app

ROOT = Path(__file__).parents[3]
CLUSTER_WING = {"controller", "cluster", "planner", "api"}
DATABASE_WING = {"runner", "engine", "stores"}
LOADED = """
import json, sys
from godwit.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit:
    pass
finally:
    names = {name.split(".")[1] for name in sys.modules if name.startswith("godwit.")}
    foreign = {"kopf", "kubernetes", "psycopg", "pglast", "rich"} & set(sys.modules)
    print(json.dumps([sorted(names), sorted(foreign)]), file=sys.stderr)
"""


def loaded(*arguments: str) -> tuple[set[str], set[str]]:
    """The packages of ours, and the foreign ones of interest, that a command imports."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    ours, foreign = json.loads(done.stderr.splitlines()[-1])
    return set(ours), set(foreign)


def test_help_and_version_load_neither_wing_and_nothing_large():
    for arguments in (["--help"], ["version"], ["operator", "--help"], ["demo", "--help"]):
        assert loaded(*arguments) == ({"cli"}, set()), arguments


def test_the_operator_loads_no_part_of_the_database_wing(tmp_path):
    ours, foreign = loaded(
        "operator", "--step-image=x", "--namespace=shop", f"--kubeconfig={tmp_path / 'none'}"
    )

    assert "controller" in ours
    assert not ours & DATABASE_WING
    assert not foreign & {"psycopg", "pglast"}


def test_packing_loads_no_part_of_the_cluster_wing():
    ours, foreign = loaded("pack", "migrations", "--name=x")

    assert "engine" in ours
    assert not ours & CLUSTER_WING
    assert not foreign & {"kopf", "kubernetes"}


def test_reading_commands_load_neither_kopf_nor_the_database_wing(tmp_path):
    for command in (["status"], ["plan", "x"]):
        ours, foreign = loaded(*command, f"--kubeconfig={tmp_path / 'none'}")

        assert not ours & (DATABASE_WING | {"controller"}), command
        assert not foreign & {"kopf", "psycopg", "pglast"}, command


def test_the_version_is_the_packages():
    assert CliRunner().invoke(app, ["version"]).output == f"godwit {godwit.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param([], "either --namespace", id="neither a namespace nor all of them"),
        pytest.param(["--namespace=a", "--all-namespaces"], "either --namespace", id="both"),
        pytest.param(["--all-namespaces"], "--lease-namespace", id="all of them, and no place for the Lease"),
    ],
)
def test_the_operator_is_told_where_to_look(arguments, says, monkeypatch):
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    done = CliRunner().invoke(app, ["operator", "--step-image=x", *arguments])

    assert done.exit_code == 2
    assert says in done.output


@pytest.mark.parametrize(
    "command", [["operator", "--step-image=x", "--namespace=a"], ["status"], ["plan", "x"]]
)
def test_without_a_login_it_says_so_and_fails(command, tmp_path):
    done = CliRunner().invoke(app, [*command, f"--kubeconfig={tmp_path / 'none'}"])

    assert done.exit_code == (1 if command[0] == "operator" else 3)
    assert "No login to a cluster" in done.output


def test_the_chart_calls_the_operator_by_options_and_variables_that_it_has():
    template = (ROOT / "helm" / "godwit" / "templates" / "deployment.yaml").read_text()
    command = typer.main.get_command(app).commands["operator"]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    variables = {
        name
        for parameter in command.params
        if parameter.envvar
        for name in ([parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar)
    }
    used = set(re.findall(r"- (--[a-z-]+)", template))

    assert "- operator\n" in template
    assert used >= {"--namespace", "--all-namespaces"}
    assert used <= options
    assert set(re.findall(r"name: (GODWIT_\w+|POD_NAMESPACE)", template)) <= variables
