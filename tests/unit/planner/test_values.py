"""The small parts: conditions, policies, pinned sources, sizes."""

import pytest

from godwit.api.common import Status
from godwit.api.database import PostgresDatabase
from godwit.contract.outcome import Failure, Findings
from godwit.contract.policy import Environment, OnFailure
from godwit.contract.reasons import Reason
from godwit.planner.conditions import Stand, Verdict, announce, conditions, phase, sentence
from godwit.planner.decision import SourceSeen
from godwit.planner.policy import interval, milliseconds, policy_of, span
from godwit.planner.runs import settled_plan
from godwit.planner.source import pin_manifests, pinned_source, stem

from .builders import NOW, ago, condition, database, failure, later, migration, run


@pytest.mark.parametrize(
    ("stand", "expected"),
    [
        (Stand.READY, {"Ready": "True"}),
        (Stand.MOVING, {"Ready": "Unknown", "Reconciling": "True"}),
        (Stand.WAITING, {"Ready": "False", "Reconciling": "True"}),
        (Stand.STALLED, {"Ready": "False", "Stalled": "True"}),
        (Stand.RESTING, {"Ready": "False"}),
    ],
)
def test_a_verdict_becomes_the_conditions_of_kstatus(stand, expected):
    made = conditions(Status(), Verdict(stand, Reason.RUNNING, "x"), 3, NOW)
    assert {c.type: c.status for c in made} == expected
    assert {(c.observed_generation, c.last_transition_time) for c in made} == {(3, NOW)}


@pytest.mark.parametrize(("status", "expected"), [("True", ago(hours=1)), ("False", NOW)])
def test_a_transition_time_moves_only_with_the_status(status, expected):
    before = Status(conditions=(condition("Ready", status),))
    (made,) = conditions(before, Verdict(Stand.READY, Reason.UP_TO_DATE, "other words"), 1, NOW)
    assert made.last_transition_time == expected


@pytest.mark.parametrize("reason", list(Reason))
def test_every_failure_has_a_verdict_a_next_step_and_a_word_for_people(reason):
    verdict = Verdict.of(failure(reason))
    assert verdict.stand is (Stand.STALLED if reason.terminal else Stand.WAITING)
    assert reason.advice.next in verdict.message
    assert phase(verdict) in ("Stalled", "Waiting")


def test_a_sentence_says_where_what_and_what_next():
    told = Failure(
        reason=Reason.MIGRATION_FAILED, message="no such table", migration="m1", line=3, sqlstate="42P01"
    )
    assert sentence(told).startswith("m1 line 3 (SQLSTATE 42P01): no such table. Next: ")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"message": "m1 was edited.", "migration": "m1"}, "m1 was edited. Next: "),
        ({"message": "It is m1x that fails.", "migration": "m1"}, "m1: It is m1x that fails. Next: "),
        ({"message": "m1 is half done", "migration": "m1", "line": 3}, "m1 line 3: m1 is half done. Next: "),
        ({"message": "Let somebody run: GRANT a;", "hint": "GRANT a;"}, "Let somebody run: GRANT a; Next: "),
        ({"message": "No right.", "hint": "GRANT a;", "standing": "So"}, "No right. GRANT a; So. Next: "),
    ],
)
def test_a_sentence_says_nothing_twice_and_adds_no_full_stop_to_a_command(told, words):
    assert sentence(Failure(reason=Reason.JOURNAL_FORBIDDEN, **told)).startswith(words)


def test_an_event_is_sent_when_the_reason_changes_and_warns_where_something_waits():
    before = Status(conditions=(condition("Ready", "False", "DatabaseBusy"),))
    assert announce(before, Verdict.of(failure(Reason.DATABASE_BUSY))) == ()
    (sent,) = announce(before, Verdict.of(failure(Reason.SECRET_MISSING)))
    assert (sent.type, sent.reason) == ("Warning", Reason.SECRET_MISSING)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 500), ("1h30m", 5_400_000), ("0s", 1), ("99999999999999999999h", 2**31 - 1)],
)
def test_timeouts_are_what_postgresql_takes_and_never_none(text, expected):
    assert milliseconds(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("0s", 0), ("0h0.0ms", 0), ("1ms", 1), ("10s", 10_000)])
def test_no_replica_lag_is_no_bound_on_it(text, expected):
    made = policy_of(database().spec, migration(spec={"strategy": {"max_replica_lag": text}}).spec)
    assert made.max_replica_lag_ms == expected


def test_every_span_can_be_added_to_a_date():
    assert NOW + span("99999999999999999999999999999h") > later(days=3_000)
    assert (interval("0s").total_seconds(), interval("2s").total_seconds()) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("environment", "wanted", "expected"),
    [
        ("Production", None, OnFailure.STOP),
        ("Staging", None, OnFailure.STOP),
        ("Development", None, OnFailure.ROLL_BACK),
        ("Production", "RollBack", OnFailure.ROLL_BACK),
        ("Development", "Stop", OnFailure.STOP),
    ],
)
def test_what_happens_on_failure_follows_the_environment_unless_said(environment, wanted, expected):
    made = policy_of(
        database(spec={"environment": environment}).spec, migration(spec={"on_failure": wanted}).spec
    )
    assert (made.on_failure, made.environment) == (expected, Environment(environment))


FILES = (({"m1.sql": "SELECT 1"}, {}), ({}, {"m.tar.gz": "eA=="}))


def test_copies_are_named_by_content_immutable_and_owned():
    seen = SourceSeen("c0ffee" * 9, FILES)
    made = pin_manifests(migration(), seen)
    assert tuple(m["metadata"]["name"] for m in made) == pinned_source(migration(), seen).config_maps
    assert all(m["immutable"] and m["metadata"]["ownerReferences"][0]["uid"] == "uid-shop" for m in made)
    assert ("binaryData" in made[0], "data" in made[1]) == (False, False)
    assert len(pinned_source(migration(name="a" * 253), seen).config_maps[0]) <= 253


def test_generated_names_of_long_names_that_begin_alike_differ_and_leave_room():
    names = ["a" * 240 + end for end in "bc"]
    assert stem(names[0]) != stem(names[1])
    assert max(len(stem(name)) for name in [*names, "a" * 200, "a" * 201]) == 200
    assert "." not in stem("a" * 190 + "." * 20)


def test_an_image_is_its_own_pin():
    own = migration(spec={"source": {"image": {"reference": "shop@sha256:" + "a" * 64}}})
    assert (pinned_source(own, SourceSeen()).image, pin_manifests(own, SourceSeen())) == (
        own.spec.source.image,
        [],
    )


def test_labels_of_parents_are_never_copied():
    made = pin_manifests(migration(labels={"argocd.argoproj.io/instance": "x"}), SourceSeen("c", FILES))
    assert set(made[0]["metadata"]["labels"]) == {"app.kubernetes.io/managed-by"}
    assert PostgresDatabase.SHORT == "pgdb"


def test_what_a_plan_found_and_would_do_is_over_when_it_has_run():
    settled = settled_plan(run())
    assert (settled["ref"], settled["pending_names"], settled["findings"]) == (None, (), Findings())
