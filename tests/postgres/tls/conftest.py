"""A PostgreSQL server with TLS, and authorities and certificates made for the occasion."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from installed import MissingToolError
from node import modules

from godwit.cli.embedded import EmbeddedPostgres

HERE = Path(__file__).parent

# secure may come over TLS only, holder with a certificate of the server's own authority only.
_HBA = """
local   all all trust
hostssl all holder 127.0.0.1/32 cert
host    all holder 127.0.0.1/32 reject
hostssl all secure 127.0.0.1/32 trust
host    all secure 127.0.0.1/32 reject
host    all all 127.0.0.1/32 trust
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The server comes from npm, once."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(600))


class Authority:
    """A certificate authority in a folder, by openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.certificate = folder / "ca.pem"
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority"),
            *("-keyout", str(folder / "ca.key"), "-out", str(self.certificate)),
        )

    def issue(self, name: str, alternative: str = "") -> tuple[Path, Path]:
        """A certificate for *name* and its key."""
        key, request, made = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        _openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", str(key), "-out", str(request)),
        )
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n" if alternative else "")
        _openssl(
            *("x509", "-req", "-days", "2", "-in", str(request), "-CA", str(self.certificate)),
            *("-CAkey", str(self.folder / "ca.key"), "-CAcreateserial", "-extfile", str(extensions)),
            *("-out", str(made)),
        )
        key.chmod(0o600)
        return made, key


def _openssl(*words: str) -> None:
    if not shutil.which("openssl"):
        raise MissingToolError("These tests make certificates with openssl, and there is none on the PATH.")
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The one that the server's certificate is from."""
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another one."""
    return Authority(tmp_path_factory.mktemp("tls") / "stranger")


@pytest.fixture(scope="session")
def tls_server(server_folder: Path, authority: Authority) -> Iterator[EmbeddedPostgres]:
    """A server whose certificate is for `localhost` alone."""
    folder = server_folder / "tls"
    folder.mkdir()
    programs = _programs(folder)
    certificate, key = authority.issue("localhost", "DNS:localhost")
    hba = folder / "hba.conf"
    hba.write_text(_HBA)
    settings = {
        "ssl": "on",
        "ssl_cert_file": str(folder / "server.pem"),
        "ssl_key_file": str(folder / "server.key"),
        "ssl_ca_file": str(folder / "ca.pem"),
        "hba_file": str(hba),
        "shared_buffers": "32MB",
    }
    server = EmbeddedPostgres(folder / "server", durable=False, settings=settings)
    for source, name in ((certificate, "server.pem"), (key, "server.key"), (authority.certificate, "ca.pem")):
        shutil.copy(source, folder / name)
        if server.run_as is not None:
            shutil.chown(folder / name, server.run_as.pw_uid)
    for name in ("psql", "pg_isready"):  # which this distribution leaves out
        (programs / name).symlink_to(server.bin_dir / name)
    server.bin_dir = programs
    with server:
        server.psql("CREATE ROLE secure LOGIN; CREATE ROLE holder LOGIN")
        yield server


def _programs(folder: Path) -> Path:
    """The server's programs, where its unprivileged user can reach them."""
    native = modules(HERE / "server") / "@embedded-postgres" / "linux-x64" / "native"
    copy = folder / "native"
    shutil.copytree(native, copy)
    for link in json.loads((copy / "pg-symlinks.json").read_text()):
        target = folder / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(folder / link["source"])
    for program in (copy / "bin").iterdir():
        program.chmod(0o755)
    return copy / "bin"


@pytest.fixture
def uri(tls_server: EmbeddedPostgres) -> Callable[..., str]:
    """The server's address for a user, by a host name and with parameters."""

    def make(query: str, *, user: str = "secure", host: str = "localhost") -> str:
        return f"postgresql://{user}@{host}:{tls_server.port}/postgres?{query}"

    return make
