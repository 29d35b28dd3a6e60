"""What an API server does to an object before it keeps it: pruning, defaults, validation.

Driven by the very schemas that the CRDs are made of. The CEL rules are a table by their text; a test sees to
it that no rule of the CRDs is missing here.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import Any

from godwit.api.common import API_VERSION, GROUP
from godwit.api.kinds import KINDS
from godwit.api.schema import Schema, object_schema
from godwit.cluster.port import Manifest, RefusedError

# RFC 1123 subdomain, as Kubernetes asks of the names of objects.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_CONFIG_MAP_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}\Z")
_CONFIG_MAP_LIMIT = 1 << 20
"""Bytes of all values of a ConfigMap together (core/v1 validation, MaxSecretSize)."""

RULES: Mapping[str, Callable[[Any, Any], bool]] = {
    "self == oldSelf": lambda self, old: bool(self == old),
    "has(self.uriFrom) != has(self.parts)": lambda self, _: ("uriFrom" in self) != ("parts" in self),
    "has(self.configMaps) != has(self.image)": lambda self, _: ("configMaps" in self) != ("image" in self),
    "self == oldSelf || oldSelf == 'Development' || self == 'Production'": lambda self, old: (
        old in (self, "Development") or self == "Production"
    ),
    "!self.required || has(self.volume)": lambda self, _: not self["required"] or "volume" in self,
    "has(self.backup)": lambda self, _: "backup" in self,
    "self.environment != 'Production' || !has(self.backup) || self.backup.required": lambda self, _: (
        self["environment"] != "Production" or "backup" not in self or self["backup"]["required"]
    ),
}
"""Each CEL rule of the CRDs as a function of `self` and `oldSelf`."""


def admit(manifest: Manifest, old: Manifest | None = None) -> Manifest:
    """*manifest* as the server would keep it in the place of *old*; shares no part with its argument.

    Raises RefusedError, naming every field that is wrong.
    """
    made: Manifest
    kind, name = manifest.get("kind", ""), manifest.get("metadata", {}).get("name", "")
    if kind == "ConfigMap":
        group, made, errors = "", plain_copy(manifest), list(_config_map_errors(manifest, old))
    elif kind in KINDS and manifest.get("apiVersion") == API_VERSION:
        schema = _schema(kind)
        group, made = f".{GROUP}", _default(schema, _prune(schema, manifest))
        errors = list(_errors(schema, made, "")) or list(_broken_rules(schema, made, old, ""))
    else:
        raise RefusedError(f'no matches for kind "{kind}" in version "{manifest.get("apiVersion")}"')
    if not _NAME.match(name) or len(name) > 253:
        errors.insert(0, f'metadata.name: Invalid value: "{name}": a lowercase RFC 1123 subdomain is needed')
    if errors:
        listed = errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]"
        raise RefusedError(f'{kind}{group} "{name}" is invalid: {listed}')
    return made


def plain_copy(value: Any) -> Any:
    """A deep copy of JSON-ready data."""
    if isinstance(value, dict):
        return {key: plain_copy(inner) for key, inner in value.items()}
    return [plain_copy(inner) for inner in value] if isinstance(value, list) else value


@cache
def _schema(kind: str) -> Schema:
    return object_schema(KINDS[kind])


@cache
def _pattern(text: str) -> re.Pattern[str]:
    # RE2's `$` is the end of the text; Python's also stands before a last line break.
    return re.compile(re.sub(r"\$\Z", r"\\Z", text))


def _prune(schema: Schema, value: Any) -> Any:
    """A copy of *value* without fields that *schema* does not know, and without nulls in those it knows.

    A null for a field that has a default is left for that (apiextensions, schema/defaulting/prunenulls.go).
    """
    if isinstance(value, list) and "items" in schema:
        return [_prune(schema["items"], item) for item in value]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return plain_copy(value)
    others, known = schema.get("additionalProperties"), schema.get("properties", {})
    if not others and not known:
        # metadata: the server has its own schema for it.
        return plain_copy(value)
    kept = {key: (inner, known.get(key, others)) for key, inner in value.items() if others or key in known}
    return {
        key: _prune(child, inner)
        for key, (inner, child) in kept.items()
        if inner is not None or "default" in child
    }


def _default(schema: Schema, value: Any) -> Any:
    """*value* with defaults filled in from the outside inwards; changes it in place.

    A null for a field that has a default counts as absent.
    """
    if isinstance(value, list) and "items" in schema:
        return [_default(schema["items"], item) for item in value]
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if value.get(name) is None and "default" in child:
                value[name] = plain_copy(child["default"])
            if name in value:
                value[name] = _default(child, value[name])
    return value


_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def _errors(schema: Schema, value: Any, path: str) -> Iterator[str]:
    """What is wrong with *value*, in the API server's words."""
    where = path or "<root>"
    if schema.get("x-kubernetes-int-or-string"):
        expected: tuple[type, ...] = (int, str)
        named = "integer,string"
    else:
        expected, named = _TYPES[schema["type"]], schema["type"]
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        yield f"{where}: Invalid value: {_said(value)}: {where} in body must be of type {named}"
        return
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(f'"{v}"' for v in schema["enum"])
        yield f"{where}: Unsupported value: {_said(value)}: supported values: {supported}"
    if isinstance(value, str):
        yield from _text_errors(schema, value, where)
    elif isinstance(value, int | float):
        if value < schema.get("minimum", value):
            yield f"{where}: Invalid value: {value}: should be greater than or equal to {schema['minimum']}"
        if value > schema.get("maximum", value):
            yield f"{where}: Invalid value: {value}: should be less than or equal to {schema['maximum']}"
    elif isinstance(value, list):
        yield from _list_errors(schema, value, where)
    elif isinstance(value, dict):
        for name in schema.get("required", []):
            if name not in value:
                yield f"{_join(path, name)}: Required value"
        for name, inner in value.items():
            child = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if child is not None:
                yield from _errors(child, inner, _join(path, name))


def _text_errors(schema: Schema, value: str, where: str) -> Iterator[str]:
    if len(value) < schema.get("minLength", 0):
        yield f"{where}: Invalid value: {_said(value)}: should be at least {schema['minLength']} chars long"
    if len(value) > schema.get("maxLength", len(value)):
        yield f"{where}: Too long: may not be more than {schema['maxLength']} characters"
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield f"{where}: Invalid value: {_said(value)}: should match '{schema['pattern']}'"
    if schema.get("format") == "date-time" and not _is_time(value):
        yield f"{where}: Invalid value: {_said(value)}: must be of type date-time"


def _list_errors(schema: Schema, value: list[Any], where: str) -> Iterator[str]:
    if len(value) < schema.get("minItems", 0):
        yield f"{where}: Invalid value: {len(value)}: should have at least {schema['minItems']} items"
    if len(value) > schema.get("maxItems", len(value)):
        yield f"{where}: Too many: {len(value)}: must have at most {schema['maxItems']} items"
    for number, item in enumerate(value):
        yield from _errors(schema["items"], item, f"{where}[{number}]")
    keys = schema.get("x-kubernetes-list-map-keys", [])
    seen: list[Any] = []
    for number, item in enumerate(value if "x-kubernetes-list-type" in schema else []):
        key = [item.get(k) for k in keys] if keys and isinstance(item, dict) else item
        if key in seen:
            yield f"{where}[{number}]: Duplicate value: {_said(key)}"
        seen.append(key)


def _broken_rules(schema: Schema, value: Any, old: Any, path: str) -> Iterator[str]:
    """The messages of the CEL rules that *value* breaks; a rule about `oldSelf` needs an old value."""
    for rule in schema.get("x-kubernetes-validations", []):
        text = rule["rule"]
        if ("oldSelf" not in text or old is not None) and not RULES[text](value, old):
            yield f"{path}: Invalid value: {_said(value)}: {rule['message']}"
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        for name, child in schema.get("properties", {}).items():
            if name in value:
                yield from _broken_rules(child, value[name], before.get(name), _join(path, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            # Entries of a list have no old value here: none of the rules inside of lists asks for one.
            yield from _broken_rules(schema["items"], item, None, f"{path}[{number}]")


def _config_map_errors(manifest: Manifest, old: Manifest | None) -> Iterator[str]:
    """Core/v1's own rules for ConfigMaps, as far as migrations meet them."""
    data, binary = manifest.get("data") or {}, manifest.get("binaryData") or {}
    size = 0
    for name, value in [*data.items(), *binary.items()]:
        if not _CONFIG_MAP_KEY.match(name) or name in {".", ".."} or name.startswith(".."):
            yield f'data[{name}]: Invalid value: "{name}": a valid config key consists of [-._a-zA-Z0-9]'
        if not isinstance(value, str):
            yield f"data[{name}]: Invalid value: {_said(value)}: must be of type string"
            continue
        try:
            size += len(base64.b64decode(value, validate=True) if name in binary else value.encode())
        except binascii.Error:
            yield f"binaryData[{name}]: Invalid value: illegal base64 data"
    if both := sorted(set(data) & set(binary)):
        yield f"data[{both[0]}]: Invalid value: the key is also in binaryData"
    if size > _CONFIG_MAP_LIMIT:
        yield f"data: Too long: may not be more than {_CONFIG_MAP_LIMIT} bytes"
    if old is not None and old.get("immutable"):
        for part in ("data", "binaryData", "immutable"):
            if (manifest.get(part) or {}) != (old.get(part) or {}):
                yield f"{part}: Forbidden: field is immutable when `immutable` is set"


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None and "T" in text
    except ValueError:
        return False


def _said(value: Any) -> str:
    """A value as an error shows it: texts in quotes, structures by their kind only."""
    if isinstance(value, dict | list):
        return '"object"' if isinstance(value, dict) else '"array"'
    return json.dumps(value, ensure_ascii=False)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
