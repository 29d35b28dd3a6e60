"""The other tools, installed as the interoperability tests install them, each with its own defaults."""

import re
from pathlib import Path

import node
import peers as tools
from apply import folders
from apply.contenders import Peer

_PRISMA: str = "7.10"
_PRISMA_TOOLS = tools.INTEROP / "prisma" / "tools"
_PRISMA_CONFIG = """
export default {
  schema: 'schema.prisma',
  migrations: { path: 'migrations' },
  datasource: { url: process.env.DATABASE_URL },
}
"""


def peers() -> list[Peer]:
    """All of them. Raises MissingToolError where one can neither be found nor installed."""
    return [_prisma(), _golang_migrate(), _goose(), _dbmate(), _flyway(), _atlas()]


def _prisma() -> Peer:
    """Its schema engine is the WebAssembly one of the same release, for want of a binary in the registry."""
    modules = node.modules(_PRISMA_TOOLS)
    main = modules / f"prisma-{_PRISMA}" / "build" / "index.js"

    def layout(folder: Path, migrations: folders.Migrations) -> None:
        (folder.parent / "schema.prisma").write_text('datasource db {\n  provider = "postgresql"\n}\n')
        (folder.parent / "prisma.config.ts").write_text(_PRISMA_CONFIG)
        folders.prisma(folder, migrations)

    def environ(uri: str, _: Path) -> dict[str, str]:
        return {
            "DATABASE_URL": uri,
            "PRISMA_SCHEMA_ENGINE_BINARY": str(_PRISMA_TOOLS / "engine.mjs"),
            "GODWIT_INTEROP_MODULES": str(modules),
            "GODWIT_INTEROP_ENGINE": f"engine-{_PRISMA}",
            "CHECKPOINT_DISABLE": "1",
            "PRISMA_HIDE_UPDATE_MESSAGE": "1",
            "CI": "1",
        }

    words = ["node", str(main), "migrate", "deploy"]
    return Peer(f"Prisma {_PRISMA}", layout, lambda _, __: words, environ=environ)


def _golang_migrate() -> Peer:
    program = str(tools.golang_migrate())
    return Peer(
        "golang-migrate",
        folders.golang_migrate,
        lambda uri, files: [program, "-path", str(files), "-database", uri, "up"],
    )


def _goose() -> Peer:
    program = str(tools.goose())
    return Peer(
        "goose", folders.goose, lambda uri, files: [program, "-dir", str(files), "postgres", uri, "up"]
    )


def _dbmate() -> Peer:
    program = str(tools.dbmate())
    return Peer(
        "dbmate",
        folders.dbmate,
        lambda uri, files: [program, "--no-dump-schema", "-d", str(files), "-u", uri, "migrate"],
    )


def _flyway() -> Peer:
    words = tools.flyway()

    def command(uri: str, files: Path) -> list[str]:
        where = re.sub(r"^postgres(ql)?://[^@]*@", "jdbc:postgresql://", uri)
        login = ["-user=postgres", "-password=none"]
        return [*words, f"-url={where}", *login, f"-locations=filesystem:{files}", "migrate"]

    environ = {"REDGATE_DISABLE_TELEMETRY": "true"}
    return Peer("Flyway", folders.flyway, command, environ=lambda _, __: environ)


def _atlas() -> Peer:
    program = str(tools.atlas())

    def command(uri: str, files: Path) -> list[str]:
        where = ["--dir", f"file://{files}", "--url", f"{uri}&search_path=public"]
        return [program, "migrate", "apply", *where]

    return Peer("Atlas", folders.atlas, command, environ=lambda _, __: {"ATLAS_NO_UPDATE_NOTIFIER": "true"})
