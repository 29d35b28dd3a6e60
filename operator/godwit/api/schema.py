"""A structural schema (apiextensions.k8s.io/v1) from a pydantic model.

Kubernetes takes a part of OpenAPI 3 only: no `$ref`, no `anyOf` of types, no `const`, exclusive bounds as
booleans ("Specifying a structural schema" in the Kubernetes documentation of custom resources).
"""

import ast
import inspect
import textwrap
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from godwit.api.common import Resource
from godwit.contract.base import Told
from godwit.contract.outcome import StepOutcome
from godwit.contract.reasons import Reason

Schema = dict[str, Any]

_ORDER = {"description": 0, "type": 1, "required": 3, "properties": 4, "items": 4, "additionalProperties": 4}
"""Where a key stands for a reader; bounds and defaults stand at 2, Kubernetes' own extensions last."""
_REF = "#/$defs/"
_REASON: Schema = {"type": "string", "description": "One of the reasons in docs/troubleshooting.md."}


def structural(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """The structural schema of *model*; without *defaults* (a status) the server fills nothing in.

    Raises ValueError where the model holds what no structural schema can say.
    """
    raw = model.model_json_schema(by_alias=True, schema_generator=_Generator, ref_template=_REF + "{model}")
    definitions = {**raw.get("$defs", {}), Reason.__name__: _REASON}
    return _clean(raw, definitions, defaults=defaults, path=model.__name__)


def object_schema(kind: type[Resource]) -> Schema:
    """The structural schema of a whole object of *kind*."""
    status = structural(_model(kind, "status"), defaults=False)
    # kstatus: a generation that nobody has looked at yet must not count as settled.
    status["properties"]["observedGeneration"]["default"] = -1
    return {
        "description": kind.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(_model(kind, "spec")),
            "status": {"default": {"observedGeneration": -1}, **status},
        },
    }


def _model(kind: type[Resource], part: str) -> type[BaseModel]:
    found = kind.model_fields[part].annotation
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise TypeError(f"{kind.KIND}.{part} is not a model")
    return found


class _Generator(GenerateJsonSchema):
    """Says in pydantic's own words what Kubernetes understands, where a later rewrite could not know."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        cls: type[BaseModel] = schema["cls"]
        if cls is StepOutcome:
            # Its verbs are a union of models; the contract reads it, the API server only keeps it.
            return {
                "type": "object",
                "description": inspect.getdoc(cls),
                "x-kubernetes-preserve-unknown-fields": True,
            }
        made = super().model_schema(schema)
        for name, text in _attribute_docs(cls).items():
            alias = cls.model_fields[name].alias or name
            made["properties"][alias].setdefault("description", text)
        return made

    def enum_schema(self, schema: core_schema.EnumSchema) -> JsonSchemaValue:
        made = super().enum_schema(schema)
        if issubclass(schema["cls"], Told):
            # A status of a newer controller must not be refused because a word in it is new.
            del made["enum"]
        return made

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        # Absent is how an object says "none"; the server drops an explicit null.
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  pydantic's signature
        return False


@cache
def _attribute_docs(cls: type[BaseModel]) -> dict[str, str]:
    """Docstrings below the fields of *cls* and its bases (the contract's models do not collect them)."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is BaseModel or not issubclass(base, BaseModel):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)  # noqa: S101  what getsource of a class is
        for line, after in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and line.target.id in cls.model_fields
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[line.target.id] = inspect.cleandoc(after.value.value)
    return found


def _clean(node: Schema, definitions: dict[str, Schema], *, defaults: bool, path: str) -> Schema:
    """*node* with references inlined and rewritten to what a structural schema may hold."""
    node = dict(node)
    while "$ref" in node:
        target = definitions[node.pop("$ref").removeprefix(_REF)]
        node = {**target, **node}
    made: Schema = {}
    for key, value in node.items():
        match key:
            case "title" | "$defs" | "discriminator":
                continue
            case "const":
                made["enum"] = [value]
            case "exclusiveMinimum" | "exclusiveMaximum" if not isinstance(value, bool):
                made[key] = True
                made["minimum" if key == "exclusiveMinimum" else "maximum"] = value
            case "properties":
                made[key] = {
                    name: _clean(child, definitions, defaults=defaults, path=f"{path}.{name}")
                    for name, child in value.items()
                }
            case "items":
                made[key] = _clean(value, definitions, defaults=defaults, path=f"{path}[]")
            case "additionalProperties":
                if isinstance(value, dict):
                    made[key] = _clean(value, definitions, defaults=defaults, path=f"{path}{{}}")
            case "default":
                continue
            case "description":
                made[key] = _paragraphs(value)
            case _:
                made[key] = value
    if defaults and (default := _default(node.get("default"), made)) is not None:
        made["default"] = default
    if "anyOf" in made and not made.get("x-kubernetes-int-or-string"):
        raise ValueError(f"{path}: a structural schema has no unions; use optional siblings and a CEL rule")
    if "type" not in made and not made.get("x-kubernetes-int-or-string"):
        raise ValueError(f"{path}: every node of a structural schema has a type")
    return {key: made[key] for key in sorted(made, key=_position)}


def _default(value: Any, schema: Schema) -> Any:
    """The default that the server should fill in, or None.

    Empty texts, lists and maps would only fill every object with nothing; an object gets `{}`, and its
    own fields' defaults follow.
    """
    if isinstance(value, dict):
        return {} if any("default" in child for child in schema.get("properties", {}).values()) else None
    return None if value in ("", [], None) else value


def _paragraphs(text: str) -> str:
    """*text* without the line breaks that only the source code needed."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _position(key: str) -> tuple[int, str]:
    return (5 if key.startswith("x-") else _ORDER.get(key, 2), key)
