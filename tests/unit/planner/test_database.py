"""PostgresDatabase: when it is looked at, what becomes of what was seen, what is cleared away."""

import pytest

from godwit.api.common import REQUESTED_AT
from godwit.api.database import DeletionPolicy
from godwit.contract.outcome import CheckOutcome
from godwit.contract.reasons import Reason
from godwit.planner.database import DatabaseSeen, check_key, decide
from godwit.planner.decision import Delete, DeleteStep, Hold, SetFinalizer, StartStep, StepSeen, StepState
from godwit.planner.step import TIDY

from .builders import (
    DONE,
    HELD,
    IDENTITY,
    IMAGE,
    NOW,
    OTHER,
    ago,
    backup,
    database,
    failure,
    finished,
    later,
    of,
    only,
    operation,
    record,
    restore,
    stand,
    touched,
)

SAW = CheckOutcome(identity=IDENTITY, server_version=160004)
SAW_OTHER = CheckOutcome(identity=OTHER, server_version=160004)


def seen(base=None, **more):
    return DatabaseSeen(database=base or database(status=SETTLED), image=IMAGE, **more)


SETTLED = {"check_key": check_key(DatabaseSeen(database=database(), image=IMAGE))}
NEVER = {"checked_at": None, "check_key": "", "identity": None, "conditions": ()}


def checked(base, found, **more):
    """The decision after a check of *base* has answered; the step's record is the one that was started."""
    started = decide(seen(base, **more), NOW).status
    return decide(seen(touched(base, status={"steps": started.steps}), check=found, **more), NOW)


def test_a_database_that_was_never_looked_at_is_looked_at():
    decision = decide(seen(database(status=NEVER)), NOW)
    assert [v.verb for v in only(decision, StartStep).spec.request.verbs] == ["Check"]
    assert stand(decision) == ("Unknown", "Checking", False)


def test_what_a_check_saw_is_taken_and_its_job_deleted_by_the_next_look():
    decision = checked(database(status=NEVER), finished(SAW))
    assert stand(decision) == ("True", "Checked", False)
    assert (decision.status.identity, decision.status.server_version) == (IDENTITY, "16.4")
    assert (of(decision, DeleteStep), decision.again_in) == ([], TIDY)
    left = decide(seen(database(status=dict(decision.status)), check=finished(SAW)), NOW)
    assert only(left, DeleteStep).job == decision.status.steps[0].job


def test_a_settled_database_is_left_alone_until_the_interval_is_over():
    decision = decide(seen(), NOW)
    assert (decision.effects, decision.again_in) == ((), 59 * 60.0)


def test_after_the_interval_it_is_looked_at_again_and_stays_ready_meanwhile():
    decision = decide(seen(), later(hours=1))
    assert only(decision, StartStep)
    assert stand(decision) == ("True", "Checked", False)


@pytest.mark.parametrize(
    "why",
    [
        {"base": database(status=SETTLED, generation=2)},
        {"base": database(status=SETTLED, annotations={REQUESTED_AT: "now"})},
        {"base": database(status=SETTLED), "restores": (restore(status={"ended_at": ago(seconds=5)}),)},
    ],
    ids=["another generation", "a request", "a restore that ended"],
)
def test_it_is_looked_at_at_once_for(why):
    assert only(decide(seen(**why), NOW), StartStep)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (finished(reason=Reason.DATABASE_UNREACHABLE), ("False", "DatabaseUnreachable", False)),
        (finished(reason=Reason.CONNECTION_INVALID), ("False", "ConnectionInvalid", True)),
        (StepSeen(StepState.NO_POD, Reason.POD_REFUSED, "quota"), ("False", "PodRefused", False)),
        (StepSeen(StepState.PENDING, Reason.SECRET_MISSING, "no"), ("False", "SecretMissing", False)),
        (StepSeen(StepState.RUNNING), ("Unknown", "Checking", False)),
        (StepSeen(StepState.CRASHED, message="killed"), ("False", "StepCrashed", False)),
        (StepSeen(StepState.GONE, foreign=True), ("False", "NameTaken", True)),
    ],
    ids=lambda value: value.state if isinstance(value, StepSeen) else "",
)
def test_a_check_that_does_not_get_on_says_why(found, expected):
    assert stand(checked(database(status=NEVER), found)) == expected


def test_a_failure_that_passes_is_tried_again_after_a_while():
    decision = checked(database(status=NEVER), finished(reason=Reason.DATABASE_UNREACHABLE))
    retry_at = decision.status.steps[0].retry_at
    assert retry_at is not None
    assert later(seconds=2) <= retry_at <= later(seconds=3)
    assert decision.again_in == TIDY
    left = decide(seen(database(status=dict(decision.status)), check=finished()), NOW)
    assert only(left, DeleteStep)


def test_a_terminal_failure_is_looked_at_again_when_the_interval_is_over():
    decision = checked(database(status=NEVER), finished(reason=Reason.CONNECTION_INVALID))
    left = decide(seen(database(status=dict(decision.status))), NOW)
    assert (left.effects, left.again_in) == ((), 3_600.0)
    again = decide(seen(database(status=dict(decision.status))), later(hours=1, seconds=1))
    assert only(again, StartStep)


def test_a_connection_that_leads_to_another_database_is_refused():
    decision = checked(database(status={**SETTLED, "checked_at": ago(hours=2)}), finished(SAW_OTHER))
    assert stand(decision) == ("False", "DatabaseChanged", True)
    assert decision.status.identity == IDENTITY


def test_another_database_is_accepted_when_a_restore_put_it_there():
    swapped = (restore(status={"ended_at": ago(seconds=5), "identity": OTHER}),)
    decision = checked(database(status=SETTLED), finished(SAW_OTHER), restores=swapped)
    assert (stand(decision)[0], decision.status.identity) == ("True", OTHER)


def test_what_an_earlier_restore_put_there_is_another_database_since_the_next_one():
    restores = (
        restore(status={"ended_at": ago(days=2), "identity": OTHER}),
        restore(uid="uid-redo", status={"ended_at": ago(days=1), "identity": IDENTITY}),
    )
    base = database(status={**SETTLED, "checked_at": ago(hours=2)})
    assert stand(checked(base, finished(SAW_OTHER), restores=restores)) == ("False", "DatabaseChanged", True)


def test_another_database_is_accepted_when_a_person_asked_for_a_fresh_look():
    base = database(status=SETTLED, annotations={REQUESTED_AT: "2026/03/01"})
    assert checked(base, finished(SAW_OTHER)).status.identity == OTHER


def test_an_old_request_does_not_accept_another_database_whatever_characters_it_has():
    asked = database(status=SETTLED, annotations={REQUESTED_AT: "2026/03/01"})
    looked = checked(asked, finished(SAW)).status.model_copy(update={"checked_at": ago(hours=2)})
    decision = checked(touched(asked, status=dict(looked)), finished(SAW_OTHER))
    assert stand(decision) == ("False", "DatabaseChanged", True)


def test_a_request_that_is_taken_away_again_asks_for_no_look():
    asked = database(status=SETTLED, annotations={REQUESTED_AT: "noon"})
    looked = checked(asked, finished(SAW)).status
    left = decide(seen(database(status={**dict(looked), "steps": ()})), NOW)
    assert (of(left, StartStep), left.status.check_key) == ([], looked.check_key)


def test_a_success_without_facts_is_no_success():
    assert stand(checked(database(status=NEVER), finished())) == ("False", "InternalError", False)


def test_a_database_that_is_being_deleted_starts_nothing():
    decision = decide(seen(database(status=NEVER, deletion_timestamp=NOW, finalizers=HELD)), NOW)
    assert of(decision, StartStep) == []


def test_a_hold_whose_holder_is_gone_is_given_up_with_its_finalizer():
    base = database(status={**SETTLED, "active_operation": operation()}, finalizers=HELD)
    decision = decide(seen(base, holder_exists=False), NOW)
    assert only(decision, Hold).operation is None
    assert not only(decision, SetFinalizer).present


@pytest.mark.parametrize("deleting", [None, NOW])
def test_a_finalizer_that_nobody_needs_any_more_is_taken_off(deleting):
    base = database(status=SETTLED, finalizers=HELD, deletion_timestamp=deleting)
    assert not only(decide(seen(base), NOW), SetFinalizer).present


def test_a_hold_of_somebody_who_exists_is_left_alone():
    base = database(status={**SETTLED, "active_operation": operation()}, finalizers=HELD)
    assert decide(seen(base), NOW).effects == ()


def numbered(number: int, **more):
    made = backup(
        spec={"deletion_policy": DeletionPolicy.DELETE}, status={**DONE, "ended_at": ago(days=number)}
    )
    return touched(made, name=f"shop-{number}-backup", uid=f"uid-{number}", **more)


def test_backups_beyond_the_retention_are_deleted_oldest_first():
    base = database(status=SETTLED, spec={"backup": {"volume": {"claim_name": "b"}, "keep": 2}})
    decision = decide(seen(base, backups=tuple(numbered(n) for n in (1, 2, 3, 4))), NOW)
    assert [effect.name for effect in of(decision, Delete)] == ["shop-4-backup", "shop-3-backup"]


@pytest.mark.parametrize(
    "kept",
    [
        backup(status={**DONE, "ended_at": ago(days=9)}),
        numbered(9).model_copy(update={"status": backup().status}),
    ],
    ids=["whose file is to be retained", "that are not finished"],
)
def test_retention_leaves_alone_backups(kept):
    base = database(status=SETTLED, spec={"backup": {"volume": {"claim_name": "b"}, "keep": 1}})
    assert of(decide(seen(base, backups=(numbered(1), kept)), NOW), Delete) == []


def test_retention_leaves_alone_the_backup_of_the_run_at_work_whatever_the_servers_clock_said():
    spec = {"backup": {"volume": {"claim_name": "b"}, "keep": 1}}
    base = database(status={**SETTLED, "active_operation": operation()}, spec=spec)
    order = numbered(1).spec.order
    other = order.model_copy(update={"run": order.run.model_copy(update={"uid": "uid-of-another"})})
    former = [numbered(n) for n in (1, 2)]
    former = [b.model_copy(update={"spec": b.spec.model_copy(update={"order": other})}) for b in former]
    decision = decide(seen(base, backups=(*former, numbered(3))), NOW)
    assert [effect.name for effect in of(decision, Delete)] == ["shop-2-backup"]


def test_a_servers_clock_that_stepped_back_does_not_make_the_newest_backup_the_oldest():
    base = database(status=SETTLED, spec={"backup": {"volume": {"claim_name": "b"}, "keep": 1}})
    newest = numbered(9, creation_timestamp=ago(hours=1))
    decision = decide(seen(base, backups=(newest, numbered(2, creation_timestamp=ago(days=2)))), NOW)
    assert [effect.name for effect in of(decision, Delete)] == ["shop-2-backup"]


def test_retention_leaves_alone_what_a_restore_is_about_to_read():
    base = database(status=SETTLED, spec={"backup": {"volume": {"claim_name": "b"}, "keep": 1}})
    asked = restore(spec={"backup_ref": {"name": "shop-2-backup"}})
    decision = decide(seen(base, backups=(numbered(1), numbered(2)), restores=(asked,)), NOW)
    assert of(decision, Delete) == []


@pytest.mark.parametrize("interval", ["0s", "99999999999999999999999h"])
def test_any_interval_that_the_schema_lets_through_can_be_worked_with(interval):
    base = database(status=SETTLED, spec={"check_interval": interval})
    decision = decide(seen(base), ago(minutes=1))
    assert decision.again_in is not None
    assert decision.again_in >= 1.0


def test_five_checks_without_an_outcome_are_enough_for_now():
    status = {**NEVER, "failure": failure(Reason.DEADLINE_EXCEEDED)}
    started = decide(seen(database(status=status)), NOW).status.steps[0]
    worn = record("check", job=started.job, crashes=4, state="Running", request_hash=started.request_hash)
    decision = decide(
        seen(database(status={**NEVER, "steps": (worn,)}), check=StepSeen(StepState.CRASHED)), NOW
    )
    assert stand(decision) == ("False", "DeadlineExceeded", True)
    assert only(decision, DeleteStep).job == worn.job
