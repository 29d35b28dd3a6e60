"""The folder in which a local step finds what a pod would have mounted, and its environment."""

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from godwit.cluster.port import Manifest
from godwit.contract.base import canonical_json
from godwit.contract.environment import (
    DATABASE_PASSWORD_VAR,
    DATABASE_URI_VAR,
    DATABASE_USER_VAR,
    OUTCOME_FILE_VAR,
    REQUEST_FILE_VAR,
    SCRATCH_DIR_VAR,
    SOURCE_DIR_VAR,
    STORE_DIR_VAR,
)
from godwit.contract.reasons import Reason
from godwit.planner.decision import StepSpec

_DATA = "..data"
_VERSION = "..1"


class MissingError(Exception):
    """Something that the step needs is not there (yet). The message is fit for a status."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Mounts:
    """What a step needs and where it is: all of it was found."""

    secrets: Mapping[str, str]
    """Environment variable -> value from a Secret."""
    config_maps: tuple[Manifest, ...]
    source: Path | None
    """Folder of the source's image."""
    store: Path | None


@dataclass(frozen=True)
class Places:
    """The files and folders of one step below its own folder."""

    folder: Path

    @property
    def outcome(self) -> Path:
        """What would be the termination message."""
        return self.folder / "outcome"

    @property
    def log(self) -> Path:
        """What the step printed."""
        return self.folder / "log"

    @property
    def scratch(self) -> Path:
        """The step's own writable folder, and its working directory."""
        return self.folder / "scratch"

    def furnish(self, spec: StepSpec, mounts: Mounts) -> dict[str, str]:
        """Make the folder and return the step's environment. Raises OSError.

        Secrets are in the environment only, never in a file.
        """
        self.scratch.mkdir(parents=True)
        source = self.folder / "source"
        source.mkdir()
        for number, config_map in enumerate(mounts.config_maps):
            _project(config_map, source / str(number))
        request = self.folder / "request.json"
        request.write_bytes(canonical_json(spec.request))
        self.outcome.touch()
        store = mounts.store
        if store is None:
            store = self.folder / "store"
        store.mkdir(parents=True, exist_ok=True)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self.scratch),
            "TMPDIR": str(self.scratch),
            REQUEST_FILE_VAR: str(request),
            OUTCOME_FILE_VAR: str(self.outcome),
            SOURCE_DIR_VAR: str(mounts.source or source),
            STORE_DIR_VAR: str(store),
            SCRATCH_DIR_VAR: str(self.scratch),
            **mounts.secrets,
        }


def secret_keys(spec: StepSpec) -> dict[str, tuple[str, str]]:
    """Environment variable -> (Secret, key) of a step's connection; the same as in a Job's pod."""
    connection = spec.connection
    if connection is None:
        return {}
    if connection.uri_from is not None:
        return {DATABASE_URI_VAR: (connection.uri_from.name, connection.uri_from.key)}
    if connection.parts is None:
        return {}
    user, password = connection.parts.user_from, connection.parts.password_from
    return {DATABASE_USER_VAR: (user.name, user.key), DATABASE_PASSWORD_VAR: (password.name, password.key)}


def _project(config_map: Manifest, folder: Path) -> None:
    """Write the ConfigMap as a kubelet mounts it: keys are links, by way of `..data`, into a folder."""
    files = folder / _VERSION
    files.mkdir(parents=True)
    (folder / _DATA).symlink_to(_VERSION)
    for key, text in (config_map.get("data") or {}).items():
        (files / key).write_bytes(text.encode())
    for key, encoded in (config_map.get("binaryData") or {}).items():
        (files / key).write_bytes(base64.b64decode(encoded))
    for file in files.iterdir():
        (folder / file.name).symlink_to(Path(_DATA) / file.name)
