"""The pages docs/api.md and docs/troubleshooting.md, made from the schemas and the catalogue of reasons."""

import json
from collections.abc import Iterator, Mapping

from godwit.api.common import API_VERSION
from godwit.api.schema import Schema
from godwit.contract.reasons import CATALOGUE, Kind

_MADE = "<!-- Made from the models in operator/godwit by `make crds`; edit those. -->\n"

_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
}

_KINDS = {
    Kind.WAITING: (
        "Waiting: tried again by itself",
        (
            "Something outside is missing or busy. Godwit looks again, less and less often; nothing needs "
            "to be restarted once the cause is gone."
        ),
    ),
    Kind.TERMINAL: (
        "Stalled: a person is needed",
        (
            "Trying again would change nothing. Godwit goes on when the spec, the source or the history "
            "changes, or when the annotation `godwit.dev/requested-at` gets a new value."
        ),
    ),
    Kind.PROGRESS: ("Progress: no error", "How things stand."),
}


def api_page(kinds: Mapping[str, tuple[str, Schema]]) -> str:
    """The reference of *kinds* (kind -> short name and schema) in Markdown."""
    parts = [
        _MADE,
        "# API reference\n",
        (
            f"All kinds are of `{API_VERSION}`, namespaced, and in kubectl's category `godwit`. "
            "`*` marks a field that must be given.\n"
        ),
    ]
    for kind, (short, schema) in kinds.items():
        parts.append(f"## {kind} (`{short}`)\n\n{schema['description']}\n")
        for part in ("spec", "status"):
            node = schema["properties"][part]
            parts.append(f"### {kind} {part}\n\n{node['description']}\n")
            parts.append("| field | type | default | meaning |\n|---|---|---|---|")
            parts.append("\n".join(_rows(node, "")) + "\n")
            if rules := list(_rules(node, part)):
                parts.append("The API server refuses it unless:\n\n" + "\n".join(rules) + "\n")
    return "\n".join(parts).rstrip() + "\n"


def _rows(node: Schema, path: str) -> Iterator[str]:
    """A table row for each field below *node*, in the models' order."""
    required = node.get("required", [])
    for name, child in node.get("properties", {}).items():
        inner = child.get("items", child)
        where = f"{path}{name}"
        bounds = [text.format(child[key]) for key, text in _BOUNDS.items() if key in child]
        meaning = " ".join(child.get("description", inner.get("description", "")).split())
        if bounds:
            meaning = f"{meaning} ({', '.join(bounds)})".strip()
        default = f"`{json.dumps(child['default'])}`" if child.get("default", {}) != {} else ""
        cells = [f"`{where}`{'*' if name in required else ''}", _type(child), default, meaning]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        yield from _rows(inner, where + ("[]." if "items" in child else "."))


def _type(node: Schema) -> str:
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    if node["type"] == "array":
        unique = {"set": "set of ", "map": "list, unique by name, of "}
        keys = node.get("x-kubernetes-list-map-keys", ["name"])
        kind = unique.get(node.get("x-kubernetes-list-type", ""), "list of ").replace("name", keys[0])
        return kind + _type(node["items"])
    if isinstance(node.get("additionalProperties"), dict):
        return "map of " + _type(node["additionalProperties"])
    if node.get("format") == "date-time":
        return "time"
    return str(node["type"])


def _rules(node: Schema, path: str) -> Iterator[str]:
    """A line for each validation rule at or below *node*."""
    for rule in node.get("x-kubernetes-validations", []):
        yield f"- `{path}`: {rule['message']}"
    for name, child in node.get("properties", {}).items():
        yield from _rules(child, f"{path}.{name}")


def troubleshooting_page() -> str:
    """Every reason, what it means and what to do, in Markdown."""
    parts = [
        _MADE,
        "# Troubleshooting, by reason\n",
        (
            "The reason stands in the `REASON` column of `kubectl get`, in the conditions of an object's "
            "status, and in its events. The message beside it says what happened, where the database "
            "stands, and names the file and line where there is one.\n"
        ),
    ]
    for kind, (title, text) in _KINDS.items():
        parts.append(f"## {title}\n\n{text}\n\n| reason | meaning | what to do |\n|---|---|---|")
        for reason, advice in CATALOGUE.items():
            if advice.kind is kind:
                cells = (f'<a id="{reason.lower()}"></a>`{reason}`', advice.meaning, advice.next)
                parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"
