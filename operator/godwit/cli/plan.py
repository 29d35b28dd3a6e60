"""`godwit plan`: the plan of a DatabaseMigration for a person, SQL included."""

import base64
import gzip
import json
from typing import Any

from godwit.cli.table import condition

Manifest = dict[str, Any]

PLAIN, PACKED = "plan.json", "plan.json.gz"
"""Keys of the ConfigMap that `status.plan.document` names: the document, or the same compressed by gzip."""


def document_of(config_map: Manifest | None) -> Manifest | None:
    """The plan's document in its ConfigMap; None where there is none that can be read."""
    if config_map is None:
        return None
    text = (config_map.get("data") or {}).get(PLAIN)
    packed = (config_map.get("binaryData") or {}).get(PACKED)
    try:
        if text is None and packed is not None:
            text = gzip.decompress(base64.b64decode(packed)).decode()
        line = json.loads(text or "")
    except (ValueError, OSError, EOFError):
        return None
    found = line.get("document") if isinstance(line, dict) else None
    return found if isinstance(found, dict) else None


def outdated(migration: Manifest) -> str:
    """Why the plan in the status may be of an earlier spec or source; empty where it stands."""
    status, generation = migration["status"], migration["metadata"].get("generation", 1)
    if status.get("observedGeneration", generation) != generation:
        return f"The operator has not looked at generation {generation} yet."
    ready, moving = condition(migration, "Ready"), condition(migration, "Reconciling")
    if not moving or status.get("activeRun") or ready.get("reason") == "Pending":
        return ""
    return str(ready.get("message") or ready.get("reason"))


def summary(migration: Manifest) -> list[str]:
    """What the status says of the plan: where from, where to, findings, ways back. Lines."""
    meta, status = migration["metadata"], migration["status"]
    plan = status["plan"]
    current = status.get("current") or "an empty history"
    lines = [f"DatabaseMigration {meta.get('namespace', 'default')}/{meta['name']}, planned {plan['madeAt']}"]
    if plan.get("ref") is None:
        lines.append(f"Nothing is pending: the database is at {current}.")
    else:
        ref, pending = plan["ref"], status.get("pending", 0)
        how = "to apply" if ref["direction"] == "Up" else "to take back"
        lines.append(
            f"{number(pending, 'migration')} {how}, {number(plan['statements'], 'statement')}: "
            f"from {current} to {ref.get('target') or 'no migration'}"
        )
        if plan.get("resolutions"):
            lines.append(f"{number(plan['resolutions'], 'change')} of the history before (see the findings).")
        lines.append(f"plan {ref['plan'][:12]}, content {ref['content'][:12]}")
        if plan.get("destructive"):
            lines.append("It drops, truncates, rewrites or deletes what existed before.")
    return lines


def findings(found: list[Manifest]) -> list[str]:
    """Findings, a line each, or that there is none."""
    if not found:
        return ["Findings: none"]
    lines = ["Findings:"]
    for finding in found:
        where = finding.get("migration", "")
        if where in finding["message"]:
            where = ""
        elif finding.get("line"):
            where += f" line {finding['line']}"
        said = f"{where}: {finding['message']}" if where else finding["message"]
        lines.append(f"  {finding['severity']:<7} {finding['reason']}: {said}")
    return lines


def ways_back(rungs: list[Manifest]) -> list[str]:
    """The ways back, a line each."""
    if not rungs:
        return []
    marks = [(r["rung"], "yes" if r["possible"] else "no", r.get("why", "")) for r in rungs]
    return ["Ways back:", *(f"  {rung:<11} {mark:<3} {why}".rstrip() for rung, mark, why in marks)]


def statements(document: Manifest) -> list[str]:
    """Every migration with its SQL, in the order in which it would run. Lines that psql could read."""
    lines = []
    steps = document["migrations"]
    for place, step in enumerate(steps, 1):
        traits = [number(len(step["statements"]), "statement"), _MODES.get(step["mode"], step["mode"])]
        traits += ["destructive"] if step["destructive"] else []
        traits += [] if step["down"] else ["no down.sql"]
        lines += [f"-- {place} of {len(steps)}: {step['name']} ({', '.join(traits)})"]
        lines += [f"{statement['sql'].strip().rstrip(';')};" for statement in step["statements"]]
        lines += [""]
    return lines


def render(migration: Manifest, document: Manifest | None) -> str:
    """The whole plan of a DatabaseMigration that has one."""
    plan = migration["status"]["plan"]
    known = plan.get("findings") or {}
    count = sum(known.get(kind, 0) for kind in ("errors", "warnings", "infos"))
    # Of a plan that has run the document stays, and speaks of what is done.
    found = document["findings"] if document and count else known.get("first", [])
    lines = [*summary(migration), *findings(found)]
    if len(found) < count:
        lines.append(f"  ... and {count - len(found)} more")
    pending = plan.get("ref") is not None
    if pending:
        lines += ways_back(plan.get("rungs") or [])
    if pending and document:
        lines += ["", *statements(document)]
    elif pending:
        name = plan.get("document") or "(none)"
        lines += [
            "",
            f"The SQL is not here: there is no ConfigMap {name} with the plan (it is kept as far as",
        ]
        lines += ["a ConfigMap can hold it). The pending migrations, as far as the status names them:"]
        lines += [f"  {name}" for name in plan.get("pendingNames", [])]
    return "\n".join(lines).rstrip()


_MODES = {
    "Whole": "in one transaction",
    "Alone": "alone, outside a transaction",
    "StatementWise": "each by itself, outside one transaction",
    "Batched": "in batches, each in a transaction of its own",
}
"""The engine's modes of a file, in words."""


def number(count: int, noun: str) -> str:
    """`1 migration`, `2 migrations`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
