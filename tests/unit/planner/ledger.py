"""A database server in a few lines: histories, journals and a store, worked on by steps as the engine does.

A source is a text of migration names; a mark after a name says how that migration behaves: `!` fails in a
transaction, `~` fails half done outside one, `v` lets the verification after COMMIT fail, `-` has no way
back, `d` destroys data. `#` anywhere in the source is SQL that does not parse.
"""

from dataclasses import dataclass, field
from datetime import datetime

from godwit.contract.base import digest
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import (
    ApplyOutcome,
    BackupOutcome,
    CheckOutcome,
    DeleteBackupOutcome,
    Failure,
    PlanOutcome,
    RestoreOutcome,
    RevertOutcome,
    StepOutcome,
    VerbOutcome,
    VerifyBackupOutcome,
    VerifyOutcome,
)
from godwit.contract.policy import Environment, Policy
from godwit.contract.reasons import Reason
from godwit.contract.request import (
    ApplyInput,
    BackupInput,
    CheckInput,
    DeleteBackupInput,
    Direction,
    PlanInput,
    RestoreInput,
    RevertInput,
    RevertScope,
    StepRequest,
    VerbInput,
    VerifyBackupInput,
    VerifyInput,
)

from .records import File, Killed, Live, Row, Stop, checksum, plain, state

RANK = {"apply": 1, "revert": 2, "restore": 3}


@dataclass
class Server:
    """Where the connection leads, what the store holds, and what is wrong just now."""

    live: Live = field(default_factory=lambda: Live(100))
    files: dict[str, File] = field(default_factory=dict)
    reachable: bool = True
    locked: bool = False
    next_oid: int = 101

    def identity(self) -> DatabaseIdentity:
        return DatabaseIdentity(system_identifier="1", database_oid=self.live.oid)

    def run(self, request: StepRequest, source: str, now: datetime, cut: int | None = None) -> StepOutcome:
        """The whole step. With *cut* it is killed after that many commits: raises Killed."""
        done: list[VerbOutcome] = []
        stopped: Failure | None = None
        work = _Work(self, request, source, now, cut)
        for verb in request.verbs:
            try:
                done.append(work.do(verb))
            except Stop as stop:
                done += [stop.beside] if stop.beside is not None else []
                stopped = stop.failure
                break
        return StepOutcome(
            request_hash=request.hash,
            attempt=request.attempt,
            started_at=now,
            ended_at=now,
            verbs=tuple(done),
            failure=stopped,
        )


@dataclass
class _Work:
    server: Server
    request: StepRequest
    source: str
    now: datetime
    cut: int | None
    moved: bool = False

    @property
    def db(self) -> Live:
        return self.server.live

    def do(self, verb: VerbInput) -> VerbOutcome:
        if isinstance(verb, DeleteBackupInput):
            self.server.files.pop(verb.location, None)
            return DeleteBackupOutcome(location=verb.location)
        if not self.server.reachable:
            raise Stop(Reason.DATABASE_UNREACHABLE)
        match verb:
            case VerifyBackupInput(location=location):
                return VerifyBackupOutcome(location=location, sha256=checksum(self.server.files[location]))
            case RestoreInput():
                return self.restore(verb)
        wanted = self.request.identity
        if wanted is not None and not self.moved and not wanted.same_database(self.server.identity()):
            raise Stop(Reason.DATABASE_CHANGED)
        match verb:
            case CheckInput():
                return CheckOutcome(
                    identity=self.server.identity(), server_version=160004, journal_head=self.db.head()
                )
            case PlanInput(target=target, policy=policy):
                return self.plan(self.db.applied, target, policy)
            case BackupInput():
                return self.backup(verb)
            case ApplyInput():
                return self.apply(verb)
            case RevertInput():
                return self.revert(verb)
            case VerifyInput():
                return self.verify(verb)
        raise AssertionError(verb)

    def plan(self, applied: list[str], target: str, policy: Policy) -> PlanOutcome:
        tokens = self.source.split()
        names = [plain(t) for t in tokens]
        if "#" in self.source:
            raise Stop(Reason.SQL_INVALID)
        if target not in ("Latest", "", *names):
            raise Stop(Reason.TARGET_NOT_FOUND)
        wanted = names if target == "Latest" else names[: names.index(target) + 1] if target else []
        pending = [n for n in wanted if n not in applied]
        down = [n for n in reversed(applied) if n not in wanted]
        if any(n not in names for n in applied) or (pending and down):
            raise Stop(Reason.MISSING_ON_DISK)
        if self.db.partial:
            raise Stop(Reason.FAILED_EARLIER)
        if any(t.endswith("-") for t in tokens if plain(t) in down):
            raise Stop(Reason.DOWN_MISSING)
        if down and policy.environment is Environment.PRODUCTION and not policy.allow_downgrade:
            raise Stop(Reason.DOWNGRADE_FORBIDDEN)
        direction = Direction.UP if pending else Direction.DOWN if down else None
        after = [n for n in applied if n not in down] + pending
        content = digest([self.source, direction or "", pending or down])
        return PlanOutcome(
            direction=direction,
            content=content,
            plan=digest([content, state(applied), self.server.identity().key, policy.to_json()]),
            from_state=state(applied),
            to_state=state(after),
            current=max(applied, default=""),
            target=max(after, default=""),
            applied=len(applied),
            pending=len(pending or down),
            pending_names=tuple(pending or down),
            journal_head=self.db.head(),
        )

    def backup(self, verb: BackupInput) -> BackupOutcome:
        if verb.from_state not in ("", state(self.db.applied)):
            raise Stop(Reason.STATE_MOVED)
        file = self.server.files.setdefault(
            verb.location,
            File(
                self.request.operation,
                self.db.oid,
                tuple(self.db.applied),
                tuple(self.db.journal),
                self.db.data,
                self.now,
                self.now,
            ),
        )
        return BackupOutcome(
            type=verb.type,
            identity=self.server.identity(),
            location=verb.location,
            size_bytes=1_000,
            sha256=checksum(file),
            server_version=160004,
            dump_version="16.4",
            started_at=file.started_at,
            ended_at=file.ended_at,
            state=state(file.applied),
        )

    def fence(self) -> None:
        """The lock, the time, the row that must be last, and that no later attempt of ours came before."""
        request = self.request
        if self.server.locked:
            raise Stop(Reason.LOCK_HELD)
        if request.not_after is not None and self.now > request.not_after:
            raise Stop(Reason.TOO_LATE)
        if (
            request.expected_journal is not None
            and self.db.head(request.operation) != request.expected_journal
        ):
            raise Stop(Reason.STATE_MOVED)
        mine = (RANK[request.step], request.attempt)
        own = [r for r in self.db.journal if r.operation == request.operation]
        if any((RANK[r.step], r.attempt) > mine for r in own):
            raise Stop(Reason.STATE_MOVED, text="A later attempt was here.")
        if any(r.event == "Begun" and (RANK[r.step], r.attempt) == mine for r in own):
            raise Stop(Reason.TOO_LATE, text="Another process of this attempt was here.")

    def done(self, *, by_object: bool = False) -> VerbOutcome | None:
        request = self.request
        for row in reversed(self.db.journal):
            same = row.operation == request.operation or (by_object and row.object == str(request.object))
            if (
                row.event == "Done"
                and same
                and (row.spec_hash, row.step) == (request.spec_hash, request.step)
            ):
                return row.outcome
        return None

    def row(self, event: str, migration: str = "", outcome: VerbOutcome | None = None) -> None:
        request = self.request
        self.db.journal.append(
            Row(
                self.db.head() + 1,
                request.operation,
                str(request.object),
                request.spec_hash,
                request.step,
                request.attempt,
                event,
                migration,
                outcome,
                self.db.data,
            )
        )

    def own(self, event: str) -> list[str]:
        """Migrations whose last row of this operation is *event*, in order."""
        last: dict[str, str] = {}
        for row in self.db.journal:
            if row.operation == self.request.operation and row.migration:
                last.pop(row.migration, None)
                last[row.migration] = row.event
        return [name for name, found in last.items() if found == event]

    def base(self) -> list[str]:
        """The history as it was before this operation."""
        applied, reverted = self.own("Applied"), self.own("Reverted")
        return [n for n in self.db.applied if n not in applied] + reverted[::-1]

    def spend(self) -> None:
        """One commit; the process may be killed before the next one."""
        if self.cut is not None:
            if self.cut <= 0:
                raise Killed
            self.cut -= 1

    def apply(self, verb: ApplyInput) -> ApplyOutcome:
        found = self.done()
        if isinstance(found, ApplyOutcome):
            return found
        self.fence()
        base = self.base()
        if state(base) != verb.plan.from_state:
            raise Stop(Reason.STATE_MOVED)
        plan = self.plan(base, verb.plan.target, verb.policy)
        if plan.plan != verb.plan.plan:
            raise Stop(Reason.PLAN_CHANGED)
        tokens = {plain(t): t for t in self.source.split()}

        def told(**more: object) -> ApplyOutcome:
            return ApplyOutcome.model_validate(self._facts(len(plan.pending_names)) | more)

        self.row("Begun")
        for name in plan.pending_names:
            if name in self.own("Applied"):
                continue
            self.spend()
            mark = tokens[name][len(name) :]
            if "!" in mark:
                raise Stop(Reason.MIGRATION_FAILED, told())
            if "~" in mark:
                self.db.partial = name
                raise Stop(Reason.PARTIALLY_APPLIED, told(partial=name))
            self.db.applied.append(name)
            self.row("Applied", name)
        self.spend()
        outcome = told()
        self.row("Done", outcome=outcome)
        return outcome

    def revert(self, verb: RevertInput) -> RevertOutcome:
        found = self.done()
        if isinstance(found, RevertOutcome):
            return found
        self.fence()
        tokens = {plain(t): t for t in self.source.split()}
        if verb.scope is RevertScope.PLAN:
            base = self.base()
            if state(base) != verb.plan.from_state:
                raise Stop(Reason.STATE_MOVED)
            if self.plan(base, verb.plan.target, verb.policy).plan != verb.plan.plan:
                raise Stop(Reason.PLAN_CHANGED)
            names = [n for n in reversed(base) if n not in verb.plan.to_state[2:].split(",")]
        else:
            names = self.own("Applied")[::-1] + self.own("Reverted")

        def told() -> RevertOutcome:
            return RevertOutcome.model_validate(self._facts(len(names)))

        self.row("Begun")
        left = [n for n in names if n in self.db.applied]
        if verb.scope is RevertScope.OPERATION:
            begun = [
                r for r in self.db.journal if r.operation == self.request.operation and r.event == "Applied"
            ]
            lossy = any("d" in tokens[n][len(n) :] for n in left) or any(
                r.data != self.db.data for r in begun
            )
            if left and lossy and not verb.policy.allow_data_loss:
                raise Stop(Reason.DATA_WOULD_BE_LOST, told())
            if any(tokens[n].endswith("-") for n in left):
                raise Stop(Reason.DOWN_MISSING, told())
        for name in left:
            self.spend()
            self.db.applied.remove(name)
            self.row("Reverted", name)
        self.spend()
        outcome = told()
        self.row("Done", outcome=outcome)
        return outcome

    def verify(self, verb: VerifyInput) -> VerifyOutcome:
        if state(self.db.applied) != verb.state:
            raise Stop(Reason.VERIFY_FAILED)
        if any("v" in t[len(plain(t)) :] for t in self.source.split() if plain(t) in self.db.applied[-1:]):
            raise Stop(Reason.VERIFY_FAILED)
        current = max(self.db.applied, default="")
        return VerifyOutcome(state=state(self.db.applied), current=current, journal_head=self.db.head())

    def restore(self, verb: RestoreInput) -> RestoreOutcome:
        found = self.done(by_object=True)
        if isinstance(found, RestoreOutcome):
            self.moved = True
            return found
        wanted = self.request.identity
        if wanted is not None and not wanted.same_database(self.server.identity()):
            raise Stop(Reason.DATABASE_CHANGED)
        self.fence()
        file = self.server.files.get(verb.location)
        if file is None or checksum(file) != verb.sha256:
            raise Stop(Reason.BACKUP_UNUSABLE)
        if self.db.data != file.data and not verb.accept_data_loss:
            raise Stop(Reason.DATA_WOULD_BE_LOST)
        self.spend()
        fresh = Live(self.server.next_oid, list(file.applied), list(file.journal), file.data)
        self.server.next_oid += 1
        self.server.live = fresh
        self.moved = True
        outcome = RestoreOutcome(
            identity=self.server.identity(),
            old_database="old",
            state=state(fresh.applied),
            current=max(fresh.applied, default=""),
            journal_head=fresh.head() + 1,
        )
        self.row("Done", outcome=outcome)
        return outcome

    def _facts(self, total: int) -> dict[str, object]:
        return {
            "applied": len(self.own("Applied")),
            "reverted": len(self.own("Reverted")),
            "total": total,
            "current": max(self.db.applied, default=""),
            "state": state(self.db.applied),
            "journal_head": self.db.head(),
        }
