"""DatabaseMigration: when it is planned, when a run is made, and what holds it."""

import pytest

from godwit.api.common import REQUESTED_AT
from godwit.api.migration import RunSummary
from godwit.contract.reasons import Reason
from godwit.planner.decision import (
    Create,
    Delete,
    DeleteStep,
    SaveDocument,
    SetFinalizer,
    SourceSeen,
    StartStep,
    StepSeen,
    StepState,
)
from godwit.planner.migration import decide
from godwit.planner.source import Pin

from .builders import (
    HELD,
    IDENTITY,
    NOW,
    OTHER,
    REF,
    ago,
    condition,
    database,
    failure,
    finished,
    later,
    of,
    only,
    record,
    restore,
    run,
    stand,
    touched,
)
from .migrations import CHECKED, KEY, PLAN, PLANNED, SETTLED, SOURCE, answered, done, found, seen


def test_a_migration_that_was_never_planned_is_planned_from_a_copy_of_its_source():
    decision = decide(seen(), NOW)
    request = only(decision, StartStep).spec.request
    assert [v.verb for v in request.verbs] == ["Check", "Plan"]
    copy = only(decision, Create).manifest
    assert (copy["immutable"], copy["data"]) == (True, {"m1.sql": "SELECT 1"})
    assert (
        (copy["metadata"]["name"],)
        == decision.status.copies
        == only(decision, StartStep).spec.source.config_maps
    )


def test_what_was_planned_is_in_the_status_and_for_people_in_a_config_map():
    decision = answered(finished(CHECKED, found()))
    assert (decision.status.pending, decision.status.plan.ref.plan) == (2, "p" * 64)
    assert not of(decision, SaveDocument)  # the run comes first
    assert (only(decision, Create).manifest["kind"], stand(decision)[1]) == ("MigrationRun", "Pending")
    again = decide(seen(dict(decision.status), plan=finished(CHECKED, found())), NOW)
    assert [type(e) for e in again.effects[-2:]] == [SaveDocument, DeleteStep]


def test_nothing_pending_is_ready():
    assert stand(answered(finished(CHECKED, found(0)))) == ("True", "UpToDate", False)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (finished(reason=Reason.SQL_INVALID), ("False", "SqlInvalid", True)),
        (finished(reason=Reason.DATABASE_UNREACHABLE), ("False", "DatabaseUnreachable", False)),
        (finished(), ("False", "InternalError", False)),
        (StepSeen(StepState.NO_POD, Reason.POD_REFUSED, "quota"), ("False", "PodRefused", False)),
        (StepSeen(StepState.PENDING, Reason.SOURCE_MISSING), ("False", "SourceMissing", False)),
        (StepSeen(StepState.RUNNING), ("Unknown", "Planning", False)),
        (StepSeen(StepState.CRASHED), ("False", "StepCrashed", False)),
        (StepSeen(StepState.GONE, foreign=True), ("False", "NameTaken", True)),
    ],
)
def test_a_plan_that_does_not_come_says_why(step, expected):
    assert stand(answered(step)) == expected


def test_five_plans_without_an_outcome_are_enough_until_the_interval_is_over():
    started = decide(seen(), NOW).status.steps[0]
    worn = started.model_copy(update={"crashes": 4, "state": "Running"})
    decision = decide(seen({"steps": (worn,)}, plan=StepSeen(StepState.CRASHED)), NOW)
    assert stand(decision) == ("False", "DeadlineExceeded", True)
    settled = decide(seen(dict(decision.status)), later(seconds=1))
    assert (of(settled, StartStep), settled.status.steps) == ([], decision.status.steps)
    assert only(decide(seen(dict(decision.status)), later(days=2)), StartStep)


@pytest.mark.parametrize(
    ("change", "due"),
    [
        ({}, False),
        ({"meta": {"generation": 2}}, True),
        ({"meta": {"annotations": {REQUESTED_AT: "now"}}}, True),
        ({"source": SourceSeen("beef", SOURCE.files)}, True),
        ({"base": database(generation=2)}, True),
        ({"base": database(status={"identity": OTHER})}, True),
        ({"restores": (restore(status={"ended_at": ago(minutes=1), "identity": IDENTITY}),)}, True),
    ],
    ids=[
        "nothing",
        "the spec",
        "a request",
        "the source",
        "the database's spec",
        "another database",
        "a restore",
    ],
)
def test_it_is_planned_again_when_something_changed(change, due):
    assert bool(of(decide(seen(SETTLED, **change), NOW), StartStep)) is due


def test_after_a_swap_one_plan_is_enough_though_the_database_was_not_looked_at_yet():
    swapped = restore(status={"ended_at": ago(seconds=30), "identity": OTHER})
    plan = PLAN.model_copy(update={"ref": None, "identity": OTHER})
    told = {**SETTLED, "plan": plan, "planned_at": NOW, "seen_restore": swapped.metadata.uid}
    assert of(decide(seen(told, restores=(swapped,)), NOW), StartStep) == []


def test_a_plan_that_failed_does_not_leave_an_older_one_standing():
    told = {**SETTLED, "plan_key": "old"}
    decision = answered(finished(reason=Reason.SQL_INVALID), told, base=database(status={"identity": OTHER}))
    assert decision.status.plan is None
    assert (
        of(decide(seen(dict(decision.status), base=database(status={"identity": OTHER})), NOW), StartStep)
        == []
    )


def test_planning_on_an_interval_does_not_unsettle_what_is_settled():
    decision = decide(seen(SETTLED), later(days=2))
    assert (stand(decision), len(of(decision, StartStep))) == (("True", "UpToDate", False), 1)


@pytest.mark.parametrize("interval", ["0s", "99999999999999999999999h"])
@pytest.mark.parametrize("lock", ["0s", "99999999999999999999999h"])
def test_any_duration_that_the_schema_lets_through_can_be_worked_with(interval, lock):
    spec = {"interval": interval, "strategy": {"lock_timeout": lock, "max_lock_hold": lock}}
    decision = decide(seen(spec=spec), NOW)
    policy = only(decision, StartStep).spec.request.verbs[1].policy
    assert 1 <= policy.lock_timeout_ms <= 2**31 - 1
    assert decide(seen(SETTLED, spec=spec), ago(hours=1)).again_in >= 1.0


def test_the_job_of_an_older_plan_goes_before_the_next_is_started():
    told = {**PLANNED, "plan_key": "old", "steps": (record("plan", state="Running"),)}
    decision = decide(seen(told, plan=StepSeen(StepState.RUNNING)), NOW)
    assert (only(decision, DeleteStep).job, of(decision, StartStep)) == ("job-plan-1", [])
    assert decision.status.steps == told["steps"]


# Runs


def test_what_is_pending_makes_one_run_complete_in_itself():
    made = only(decide(seen(PLANNED), NOW), Create).manifest
    assert (made["kind"], made["metadata"]["name"]) == ("MigrationRun", "shop-1")
    assert made["spec"]["plan"]["plan"] == REF.plan


def test_a_change_of_the_history_alone_makes_a_run_too():
    plan = PLAN.model_copy(update={"resolutions": 1})
    decision = decide(seen({**PLANNED, "plan": plan, "pending": 0}), NOW)
    assert only(decision, Create).manifest["metadata"]["name"] == "shop-1"
    assert stand(decision) == ("Unknown", "Pending", False)


def test_after_a_run_that_changed_the_history_it_is_planned_again():
    plan = PLAN.model_copy(update={"resolutions": 1})
    done = run(status={"outcome": "Succeeded", "current": "m3", "released": True})
    decision = decide(seen({**PLANNED, "plan": plan}, runs=(done,)), NOW)
    assert only(decision, StartStep).spec.request.step == "plan"


def test_what_was_declared_reaches_the_plan_and_the_run():
    resolve = [{"migration": "m1", "as": "RolledBack", "requestedAt": "noon"}]
    spec = {"resolve": resolve, "baseline": "m0", "editedMigrations": "Warn"}
    told = only(decide(seen(spec=spec), NOW), StartStep).spec.request.verbs[1].policy.to_json()
    assert [told[key] for key in ("resolve", "baseline", "edited")] == [resolve, "m0", "Warn"]
    made = only(decide(seen(PLANNED, spec=spec), NOW), Create).manifest["spec"]["policy"]
    assert [made[key] for key in ("resolve", "baseline", "edited")] == [resolve, "m0", "Warn"]


@pytest.mark.parametrize(
    ("status", "more"),
    [
        ({"failure": failure(Reason.SQL_INVALID)}, {}),
        ({"hold": KEY, "failure": failure(Reason.MIGRATION_FAILED)}, {}),
        ({"pending": 0}, {}),
        ({}, {"spec": {"suspend": True}}),
        ({}, {"meta": {"deletion_timestamp": NOW}}),
        (
            {"last_run": RunSummary(name="shop-1", uid="u", outcome="Failed", reason="x")},
            {"runs": (run(status={"outcome": "Failed"}),)},
        ),
        ({}, {"runs": (run(),)}),
    ],
    ids=[
        "it failed",
        "it is held",
        "nothing is pending",
        "suspended",
        "being deleted",
        "the last holds",
        "one runs",
    ],
)
def test_no_run_is_made_when(status, more):
    assert of(decide(seen({**PLANNED, **status}, **more), NOW), Create) == []


def test_suspended_it_shows_its_plan_and_rests():
    decision = decide(seen(PLANNED, spec={"suspend": True}), NOW)
    assert (*stand(decision), decision.status.condition("Reconciling")) == ("False", "Suspended", False, None)
    planned = answered(finished(CHECKED, found()), spec={"suspend": True})
    assert only(planned, SaveDocument).name in planned.status.copies


def test_names_of_runs_fit_whatever_the_migrations_name():
    made = only(decide(seen(PLANNED, meta={"name": "a" * 253}), NOW), Create).manifest
    assert len(made["metadata"]["name"]) < 220


def test_a_run_under_way_is_told_of():
    running = run(status={"conditions": (condition("Ready", "Unknown", "Applying", "It applies."),)})
    decision = decide(seen(PLANNED, runs=(running,)), NOW)
    assert (stand(decision)[1], decision.status.active_run) == ("Applying", "shop-1")


def test_a_run_that_succeeded_settles_the_migration_without_another_plan():
    decision = decide(seen({**PLANNED, "applied": 3}, runs=(done("Succeeded"),)), NOW)
    assert (stand(decision)[0], decision.status.applied, decision.status.current) == ("True", 5, "m2")
    assert of(decision, StartStep) == []


# What is missing, what is cleared away


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"database": None}, ("False", "DatabaseNotFound", False)),
        ({"base": database(deletion_timestamp=NOW)}, ("False", "DatabaseNotFound", False)),
        ({"source": SourceSeen(missing="shop-files")}, ("False", "SourceMissing", False)),
        ({"spec": {"source": {"image": {"reference": "shop:latest"}}}}, ("False", "SourceInvalid", True)),
    ],
)
def test_without_what_it_needs_it_is_not_planned_and_leaves_no_job(more, expected):
    told = {"steps": (record("plan", state="Running"),)}
    decision = decide(seen(told, plan=StepSeen(StepState.RUNNING), **more), NOW)
    assert (stand(decision), of(decision, StartStep)) == (expected, [])
    assert (only(decision, DeleteStep).job, decision.status.steps) == ("job-plan-1", told["steps"])
    assert decide(seen(told, **more), NOW).status.steps == ()


def test_copies_that_nothing_refers_to_are_deleted_and_then_forgotten():
    told = {**SETTLED, "copies": ("old", "shop-source-0")}
    decision = decide(seen(told, spare=(Pin("old", "uid-old"),)), NOW)
    assert only(decision, Delete).name == "old"
    assert decide(seen(told), NOW).status.copies == ("shop-source-0",)


def test_runs_beyond_the_limit_are_deleted_oldest_first_by_number():
    runs = tuple(touched(done("Succeeded"), name=f"shop-{n}", uid=f"u{n}") for n in (10, 9, 2))
    last = RunSummary(name="shop-10", uid="u10", outcome="Succeeded", reason="Succeeded")
    decision = decide(seen({**SETTLED, "last_run": last}, spec={"run_history_limit": 1}, runs=runs), NOW)
    assert [e.name for e in of(decision, Delete)] == ["shop-2", "shop-9"]


@pytest.mark.parametrize("meta", [{}, {"deletion_timestamp": NOW}])
def test_a_finalizer_that_no_run_needs_is_taken_off(meta):
    decision = decide(seen(SETTLED, meta={"finalizers": HELD, **meta}), NOW)
    assert not only(decision, SetFinalizer).present
    kept = decide(seen(SETTLED, meta={"finalizers": HELD, **meta}, runs=(run(),)), NOW)
    assert of(kept, SetFinalizer) == []
