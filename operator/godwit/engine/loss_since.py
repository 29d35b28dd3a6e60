"""May a restore go on, after what was written since the backup was counted? Pure."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime

from godwit.contract.reasons import Reason
from godwit.engine.errors import utc
from godwit.engine.snapshot import Written

_NAMED = 5
_SYSTEM = "pg_catalog"
"""Large objects; they belong to no schema of anybody."""


def loss_refusal(
    written: Mapping[str, Written], *, accepted: bool, schemas: AbstractSet[str], since: datetime
) -> tuple[Reason, str] | None:
    """Why the restore must stop, or None. *written*: by `schema.table`; *schemas*: ours to rewind.

    Another service's schema is never rewound with ours, whatever loss its neighbour accepted.
    """
    others = {t: w for t, w in written.items() if t.partition(".")[0] not in {*schemas, _SYSTEM}}
    moment = utc(since)
    if others:
        return (
            Reason.SHARED_DATABASE,
            f"Schemas outside `connection.schemas` were written to since {moment}: {_list(others)}.",
        )
    if written and not accepted:
        return (
            Reason.DATA_WOULD_BE_LOST,
            f"A restore would lose what was written since the snapshot at {moment}: {_list(written)}.",
        )
    return None


def _list(written: Mapping[str, Written]) -> str:
    names = sorted(written, key=lambda t: (-written[t].rows, t))
    texts = [f"{name} ({_words(written[name])})" for name in names[:_NAMED]]
    more = len(names) - _NAMED
    return ", ".join(texts) + (f" and {more} more tables" if more > 0 else "")


def _words(written: Written) -> str:
    if written.unknown:
        return "rewritten, so not countable"
    return f"{written.added} inserted or updated, {written.gone} deleted or updated"
