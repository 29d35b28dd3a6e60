"""The base of every contract model, and the one way of turning a model into bytes and a digest."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

CONTRACT_VERSION = "1.0"
"""`major.minor` of the contract. A runner refuses another major; a newer minor only adds fields."""


class Model(BaseModel):
    """Frozen, camelCase in JSON, unknown fields ignored (a newer minor version may add some)."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")

    def to_json(self) -> dict[str, Any]:
        """The model as JSON-ready data with camelCase keys; fields that are None are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def canonical_json(data: Model | Mapping[str, Any] | list[Any] | tuple[Any, ...]) -> bytes:
    """The one byte form of *data* that digests are made of: sorted keys, no spaces, UTF-8."""
    plain = data.to_json() if isinstance(data, Model) else data
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(data: Model | Mapping[str, Any] | list[Any] | tuple[Any, ...] | bytes) -> str:
    """Lower-case hexadecimal SHA-256 of *data* (of its canonical JSON unless it is bytes)."""
    return hashlib.sha256(data if isinstance(data, bytes) else canonical_json(data)).hexdigest()
