"""CustomResourceDefinitions and their reference pages, made from the models.

python -m godwit.api.crd --write crds --docs docs
python -m godwit.api.crd --check crds --docs docs    exits 1, naming each file that is not current
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from godwit.api.common import GROUP, VERSION, Resource
from godwit.api.kinds import KINDS
from godwit.api.reference import api_page, troubleshooting_page
from godwit.api.schema import object_schema

HEADER = "# Made from the models in operator/godwit/api by `make crds`; edit those.\n"
CATEGORY = "godwit"


class Column(NamedTuple):
    """A column of `kubectl get`; priority 1 is shown by `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


def _of_ready(field: str) -> str:
    return f'.status.conditions[?(@.type=="Ready")].{field}'


_READY = Column("READY", _of_ready("status"))
_REASON = Column("REASON", _of_ready("reason"))
_AGE = Column("AGE", ".metadata.creationTimestamp", "date")
_MESSAGE = Column("MESSAGE", _of_ready("message"), priority=1)
_DATABASE = Column("DATABASE", ".spec.databaseRef.name")

COLUMNS: dict[str, tuple[Column, ...]] = {
    "PostgresDatabase": (
        Column("ENVIRONMENT", ".spec.environment"),
        Column("VERSION", ".status.serverVersion"),
        *(_READY, _REASON, _AGE, _MESSAGE),
    ),
    "DatabaseMigration": (
        _DATABASE,
        Column("CURRENT", ".status.current"),
        Column("TARGET", ".status.target"),
        Column("PENDING", ".status.pending", "integer"),
        *(_READY, _REASON, _AGE, _MESSAGE),
    ),
    "MigrationRun": (
        Column("MIGRATION", ".spec.migrationRef.name"),
        Column("TARGET", ".spec.plan.target"),
        Column("OUTCOME", ".status.outcome"),
        *(_REASON, _AGE, _MESSAGE),
    ),
    "DatabaseBackup": (
        _DATABASE,
        Column("TYPE", ".spec.type"),
        Column("SIZE", ".status.sizeBytes", "integer"),
        Column("VERIFIED", ".status.verified"),
        *(_READY, _AGE, _MESSAGE),
    ),
    "DatabaseRestore": (
        _DATABASE,
        Column("BACKUP", ".spec.backupRef.name"),
        *(_READY, _REASON, _AGE, _MESSAGE),
    ),
}


def definition(kind: type[Resource]) -> dict[str, Any]:
    """The CustomResourceDefinition of *kind*."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.PLURAL}.{GROUP}",
            # Uninstalling the chart must not take every migration, run and backup with it.
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.KIND,
                "listKind": f"{kind.KIND}List",
                "plural": kind.PLURAL,
                "singular": kind.KIND.lower(),
                "shortNames": [kind.SHORT],
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {
                            "name": column.name,
                            "type": column.type,
                            "jsonPath": column.path,
                            **({"priority": column.priority} if column.priority else {}),
                        }
                        for column in COLUMNS[kind.KIND]
                    ],
                    "schema": {"openAPIV3Schema": object_schema(kind)},
                }
            ],
        },
    }


class _Dumper(yaml.SafeDumper):
    """Readable YAML: no anchors, paragraphs as blocks, lists indented."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  yaml's signature
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        return super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def files(crds: Path, docs: Path) -> dict[Path, str]:
    """Every generated file and what it should hold."""
    found = {
        crds / f"{kind.PLURAL}.yaml": HEADER
        + yaml.dump(definition(kind), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
        for kind in KINDS.values()
    }
    found[docs / "api.md"] = api_page(
        {kind.KIND: (kind.SHORT, object_schema(kind)) for kind in KINDS.values()}
    )
    found[docs / "troubleshooting.md"] = troubleshooting_page()
    return found


def main(arguments: list[str] | None = None) -> int:
    """Write or check the generated files; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m godwit.api.crd", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", type=Path, metavar="FOLDER", help="write the definitions into FOLDER")
    mode.add_argument("--check", type=Path, metavar="FOLDER", help="say which files are not current")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", required=True, help="folder of the pages")
    options = parser.parse_args(arguments)
    wanted = files(options.write or options.check, options.docs)
    if options.write:
        for path, text in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [p for p, text in wanted.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
    stale += [path for path in sorted(options.check.glob("*.yaml")) if path not in wanted]
    for path in stale:
        sys.stderr.write(f"{path} is not what the models say: run `make crds`\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
