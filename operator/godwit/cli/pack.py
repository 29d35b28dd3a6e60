"""`godwit pack`: the ConfigMaps of a migration folder, as YAML for kubectl."""

from pathlib import Path
from typing import Any

import yaml

from godwit.contract.request import Format
from godwit.runner.pack import pack


def manifests(
    folder: Path,
    name: str,
    namespace: str | None = None,
    format: Format = Format.AUTO,  # noqa: A002  the contract's word
) -> list[dict[str, Any]]:
    """ConfigMaps that together hold the migrations in *folder*: `name`, then `name-2`, `name-3`, ...

    List them all in `spec.source.configMaps`. Raises StepFailed where the folder holds no migrations.
    """
    made = []
    for number, content in enumerate(pack(folder, format), 1):
        metadata = {"name": name if number == 1 else f"{name}-{number}"}
        if namespace:
            metadata["namespace"] = namespace
        made.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **content})
    return made


def as_yaml(documents: list[dict[str, Any]]) -> str:
    """The manifests as YAML documents, scripts as readable blocks."""
    return "---\n".join(
        yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=4096)
        for document in documents
    )


# LibYAML's where PyYAML was built with it: many times faster, which megabytes of SQL need.
_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):  # type: ignore[misc]
    """As the safe dumper, but texts of several lines are blocks where YAML lets them be."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
