"""The base of every contract model, and the one way of turning a model into bytes and a digest."""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

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


class Told(StrEnum):
    """A word that one version of Godwit tells another.

    One that a newer version wrote is read too, and written back as it was: an operator that was set back to
    an older version, or the outcome of a newer one's step, must not be refused for it.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        newer = str.__new__(cls, value)
        newer._name_ = newer._value_ = value
        return newer

    @property
    def known(self) -> bool:
        """Whether this version has it."""
        return self.value in type(self).__members__.values()


def canonical_json(data: Model | Mapping[str, Any] | list[Any] | tuple[Any, ...]) -> bytes:
    """The one byte form of *data* that digests are made of: sorted keys, no spaces, UTF-8."""
    plain = data.to_json() if isinstance(data, Model) else data
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(data: Model | Mapping[str, Any] | list[Any] | tuple[Any, ...] | bytes) -> str:
    """Lower-case hexadecimal SHA-256 of *data* (of its canonical JSON unless it is bytes)."""
    return hashlib.sha256(data if isinstance(data, bytes) else canonical_json(data)).hexdigest()
