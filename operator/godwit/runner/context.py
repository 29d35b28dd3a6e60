"""What a step is told by its surroundings: the request, the places, the secrets that no log may show."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from pydantic import ValidationError

from godwit.contract.base import CONTRACT_VERSION, digest
from godwit.contract.environment import (
    DATABASE_PASSWORD_VAR,
    DATABASE_URI_VAR,
    REQUEST_FILE,
    REQUEST_FILE_VAR,
    SCRATCH_DIR,
    SCRATCH_DIR_VAR,
    SOURCE_DIR,
    SOURCE_DIR_VAR,
    STORE_DIR,
    STORE_DIR_VAR,
)
from godwit.contract.reasons import Reason
from godwit.contract.request import Connection, StepRequest
from godwit.engine.context import Cancellation, Log, StepContext
from godwit.engine.errors import StepFailed, fail
from godwit.engine.uri import parse_target

__all__ = ["StepContext", "make_context", "read_raw_request", "request_hash", "secrets_of", "understand"]


_KEYWORD: Final = r"(?i)(?:ssl)?password\s*=\s*((?:\\.|[^&\s'\\])+|'(?:\\.|[^'\\])*')"
"""libpq's `password=x`, also of a URI's query; a backslash takes the next character as it is."""


def read_raw_request(environ: Mapping[str, str]) -> dict[str, Any]:
    """The request as it was written. Raises StepFailed(ContractMismatch) when it is no JSON object."""
    path = Path(environ.get(REQUEST_FILE_VAR, REQUEST_FILE))
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise fail(Reason.CONTRACT_MISMATCH, f"The step's request cannot be read: {what} ({path}).") from None
    if not isinstance(raw, dict):
        raise fail(Reason.CONTRACT_MISMATCH, f"The step's request is not a JSON object ({path}).")
    return raw


def request_hash(raw: Mapping[str, Any]) -> str:
    """The request's hash as its writer made it, fields that this version does not know included."""
    return digest(raw)


def understand(raw: Mapping[str, Any]) -> StepRequest:
    """The request as this version understands it. Raises StepFailed(ContractMismatch)."""
    version = str(raw.get("contractVersion", ""))
    if version.partition(".")[0] != CONTRACT_VERSION.partition(".")[0]:
        raise fail(
            Reason.CONTRACT_MISMATCH,
            f"The request speaks contract {version or '(none)'}, this image speaks {CONTRACT_VERSION}.",
            standing="The database was not touched.",
        )
    try:
        return StepRequest.model_validate(raw)
    except ValueError as error:
        # Only places and kinds: the values may be SQL of a check.
        problems = error.errors() if isinstance(error, ValidationError) else []
        places = "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['type']}" for e in problems[:5])
        raise fail(
            Reason.CONTRACT_MISMATCH,
            f"The request is not understood: {places}.",
            standing="The database was not touched.",
        ) from None


def secrets_of(environ: Mapping[str, str]) -> set[str]:
    """Every text in *environ* that must show up nowhere: passwords, also as URIs write them."""
    uri = environ.get(DATABASE_URI_VAR, "")
    # Without the newline that ends a file: it is no part of the password.
    found = {environ.get(name, "").rstrip("\r\n") for name in (DATABASE_PASSWORD_VAR, "PGPASSWORD")}
    # user:password@ up to the last @ (Prisma's way of reading) and up to the first (libpq's).
    for pattern in (r"//[^:/@?]*:(.*)@", r"//[^:/@?]*:([^@]*)@", _KEYWORD):
        found |= {match.strip("'") for match in re.findall(pattern, uri)}
    # As it will be used: libpq's keywords know quotes, spaces and backslashes, parameters a plus.
    with suppress(StepFailed):
        params = parse_target(Connection(), environ).params
        found |= {params.get("password", ""), params.get("sslpassword", "")}
    return {s for f in found for s in (f, unquote(f), re.sub(r"\\(.)", r"\1", f)) if s}


def make_context(
    request: StepRequest,
    environ: Mapping[str, str],
    *,
    log: Log,
    cancelled: Cancellation,
    point: Callable[[str], None],
) -> StepContext:
    """The context of a step in the places that *environ* names, a Job's own places by default."""
    return StepContext(
        request=request,
        environ=environ,
        source_dir=Path(environ.get(SOURCE_DIR_VAR, SOURCE_DIR)),
        store_dir=Path(environ.get(STORE_DIR_VAR, STORE_DIR)),
        scratch_dir=Path(environ.get(SCRATCH_DIR_VAR, SCRATCH_DIR)),
        log=log,
        cancelled=cancelled,
        point=point,
    )
