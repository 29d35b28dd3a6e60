"""Objects as `kubectl get` prints them: the columns of their CRDs, two letters' worth of age."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from godwit.api.common import GROUP
from godwit.api.crd import COLUMNS, Column

Manifest = dict[str, Any]

_READY = '.status.conditions[?(@.type=="Ready")].'


def table(objects: Sequence[Manifest], now: datetime, *, with_kind: bool = False) -> str:
    """One table of objects of one kind; empty for none.

    *with_kind* writes KIND.GROUP/NAME, as kubectl does where it was asked for several kinds.
    """
    if not objects:
        return ""
    kind = objects[0]["kind"]
    columns = [column for column in COLUMNS[kind] if not column.priority]
    prefix = f"{kind.lower()}.{GROUP}/" if with_kind else ""
    rows = [["NAME", *(column.name for column in columns)]]
    for found in objects:
        cells = [_cell(found, column, now) for column in columns]
        rows.append([prefix + found["metadata"]["name"], *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def condition(found: Manifest, kind: str) -> Manifest:
    """The condition of that type, empty where there is none."""
    conditions: list[Manifest] = found.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def age(since: datetime, now: datetime) -> str:
    """A span as kubectl writes it (k8s.io/apimachinery, duration.HumanDuration): one unit or two."""
    seconds = max(0, int((now - since).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 2:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if days < 2:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d" if days < 730 else f"{days // 365}y"


def _cell(found: Manifest, column: Column, now: datetime) -> str:
    value = _at(found, column.path)
    if value is None:
        return ""
    if column.type == "date":
        return age(datetime.fromisoformat(value).astimezone(UTC), now)
    return str(value)


def _at(found: Manifest, path: str) -> Any:
    """What stands at *path*: one of the two forms of JSONPath that the CRDs use."""
    if path.startswith(_READY):
        return condition(found, "Ready").get(path.removeprefix(_READY))
    value: Any = found
    for key in path.removeprefix(".").split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
