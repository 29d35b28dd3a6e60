"""From what people wrote in specs to what the contract says. Pure."""

from datetime import timedelta
from typing import NamedTuple

from godwit.api.common import seconds
from godwit.api.database import ConnectionSpec, PostgresDatabaseSpec
from godwit.api.migration import DatabaseMigrationSpec
from godwit.contract.base import canonical_json
from godwit.contract.outcome import Failure
from godwit.contract.policy import Environment, OnFailure, Policy, Resolve, SqlCheck
from godwit.contract.reasons import Reason
from godwit.contract.request import Connection

MOST_MILLISECONDS = 2_147_483_647
"""PostgreSQL's timeouts are 32-bit integers (manual, section 20.1.1)."""
LONGEST = timedelta(days=3_650)
LARGEST = 224 * 1024
"""Bytes that the policy may take of a step's request. All annotations of a pod may take 256 KiB together
(k8s.io/apimachinery pkg/api/validation, TotalAnnotationSizeLimitB); what else a request holds is bounded."""


class _Limits(NamedTuple):
    lock_timeout: str
    max_lock_hold: str
    lock_budget: str
    concurrent_budget: str


_STRICT = _Limits("2s", "5s", "10m", "6h")
_LIMITS = {
    # One person's database: long statements stop nobody, a forgotten session is soon found.
    Environment.DEVELOPMENT: _Limits("2s", "1m", "1m", "1h"),
    Environment.STAGING: _STRICT,
    Environment.PRODUCTION: _STRICT,
}
"""What counts where `spec.strategy` says nothing. Staging is as strict as Production: it is the rehearsal."""


def milliseconds(duration: str) -> int:
    """Whole milliseconds of a duration text such as 500ms or 1h30m.

    At least 1: PostgreSQL reads 0 as no bound at all, which nobody means who writes 0s.
    """
    return min(MOST_MILLISECONDS, max(1, round(min(seconds(duration) * 1000, MOST_MILLISECONDS))))


def span(duration: str) -> timedelta:
    """A duration text as time to add: at most ten years, so that every sum is a date."""
    return min(LONGEST, timedelta(seconds=min(seconds(duration), LONGEST.total_seconds())))


def interval(duration: str) -> timedelta:
    """As `span`, for what is done again and again: at least a second."""
    return max(timedelta(seconds=1), span(duration))


def connection_of(spec: ConnectionSpec, schemas: tuple[str, ...]) -> Connection:
    """The part of a connection that is no secret."""
    parts = spec.parts
    return Connection(
        host=parts.host if parts else "",
        port=parts.port if parts else 5432,
        database=parts.database if parts else "",
        sslmode=parts.sslmode if parts else "",
        role=spec.role,
        pooler=spec.pooler,
        schemas=schemas,
    )


def policy_of(database: PostgresDatabaseSpec, migration: DatabaseMigrationSpec) -> Policy:
    """Every policy that changes what a run of *migration* on *database* does."""
    strategy, limits = migration.strategy, _LIMITS[database.environment]
    development = database.environment is Environment.DEVELOPMENT
    return Policy(
        environment=database.environment,
        transaction=strategy.transaction,
        on_failure=migration.on_failure or (OnFailure.ROLL_BACK if development else OnFailure.STOP),
        lock_timeout_ms=milliseconds(strategy.lock_timeout or limits.lock_timeout),
        max_lock_hold_ms=milliseconds(strategy.max_lock_hold or limits.max_lock_hold),
        lock_budget_ms=milliseconds(strategy.lock_budget or limits.lock_budget),
        concurrent_budget_ms=milliseconds(strategy.concurrent_budget or limits.concurrent_budget),
        max_replica_lag_ms=milliseconds(strategy.max_replica_lag) if seconds(strategy.max_replica_lag) else 0,
        show_blocking_queries=database.show_blocking_queries,
        statement_timeout_ms=milliseconds(strategy.statement_timeout) if strategy.statement_timeout else 0,
        checks=tuple(
            SqlCheck(name=c.name, sql=c.sql, when=c.when, timeout_ms=milliseconds(c.timeout))
            for c in migration.verify.checks
        ),
        edited=migration.edited_migrations,
        resolve=tuple(
            Resolve(migration=r.migration, as_=r.as_, requested_at=r.requested_at) for r in migration.resolve
        ),
        baseline=migration.baseline,
        backup_required=database.backup.required,
        allow_downgrade=migration.allow_downgrade,
        allow_data_loss=database.rollback.accept_data_loss,
    )


def too_large(policy: Policy) -> Failure | None:
    """Why no step could be given that policy: to apply and to verify, it is told the checks twice."""
    size = len(canonical_json(policy)) + len(canonical_json([check.to_json() for check in policy.checks]))
    if size <= LARGEST:
        return None
    text = (
        f"The checks in spec.verify take {size:,} bytes of a step's request, which has {LARGEST:,} for them."
    )
    return Failure(reason=Reason.REQUEST_TOO_LARGE, message=text, standing="Nothing was changed.")


def version_text(number: int) -> str:
    """`server_version_num` as people write it: 160014 is 16.14 (PostgreSQL manual, PQserverVersion)."""
    return f"{number // 10_000}.{number % 10_000}"
