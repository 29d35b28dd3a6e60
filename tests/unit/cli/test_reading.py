"""The reading commands at a server that has nothing to read: each says what is missing."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from godwit.cli.main import app

KNOWN = '{"resources": [{"name": "databasemigrations"}]}'
NONE = '{"kind": "DatabaseMigrationList", "items": []}'
COMMANDS = [["status"], ["status", "shop"], ["plan", "shop"]]

Kubeconfig = Callable[[dict[str, str]], str]


@pytest.fixture
def kubeconfig_of(tmp_path: Path) -> Iterator[Kubeconfig]:
    """A kubeconfig for a server that answers so: by the end of the path, 404 for everything else."""
    servers = []

    def make(answers: dict[str, str]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = next((text for end, text in answers.items() if self.path.endswith(end)), None)
                self.send_response(404 if found is None else 200)
                self.end_headers()
                self.wfile.write((found or "{}").encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's word
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        cluster = {"server": f"http://ann:hunter2@127.0.0.1:{server.server_port}"}
        context = {"cluster": "c", "user": "u", "namespace": "bookshop"}
        content = {
            "current-context": "a",
            "contexts": [{"name": "a", "context": context}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {}}],
        }
        (tmp_path / "config").write_text(yaml.safe_dump(content))
        return str(tmp_path / "config")

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_namespace_without_migrations_is_named(kubeconfig_of: Kubeconfig, command: list[str]) -> None:
    file = kubeconfig_of({"/databasemigrations": NONE, "/v1alpha1": KNOWN})
    done = CliRunner().invoke(app, [*command, f"--kubeconfig={file}"])

    assert done.exit_code == 2, done.output
    assert "There is no DatabaseMigration " in done.output
    assert done.output.endswith("in namespace bookshop.\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_cluster_without_the_crds_is_told_from_one_without_migrations(
    kubeconfig_of: Kubeconfig, command: list[str]
) -> None:
    done = CliRunner().invoke(app, [*command, f"--kubeconfig={kubeconfig_of({})}"])

    assert done.exit_code == 3, done.output
    assert "CRDs are not installed" in done.output


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_is_no_api_server_is_called_so_without_the_password_in_its_address(
    kubeconfig_of: Kubeconfig, command: list[str]
) -> None:
    file = kubeconfig_of({"": "<html>Welcome</html>"})
    done = CliRunner().invoke(app, [*command, f"--kubeconfig={file}"])

    assert done.exit_code == 3, done.output
    assert done.output.startswith("What answers at http://127.0.0.1:")
    assert "hunter2" not in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", ""],
        ["plan", ""],
        ["plan", "a/b"],
        ["status", "-n", "Bookshop"],
        ["pack", "migrations", "--name=", "-n", "bookshop"],
    ],
    ids=" ".join,
)
def test_what_no_object_can_be_called_is_refused_at_once(arguments: list[str]) -> None:
    """As from a variable that a script has not set."""
    done = CliRunner().invoke(app, arguments)

    assert done.exit_code == 2, done.output
    assert "is no name" in done.output
