"""What a step is asked for fits into an annotation of its pod, or is refused before anything is planned."""

import pytest

from godwit.cluster.jobs import build_job
from godwit.contract.reasons import Reason
from godwit.planner.decision import SourceSeen, StartStep
from godwit.planner.migration import MigrationSeen, decide
from godwit.planner.policy import policy_of
from godwit.planner.run_steps import apply_step, revert_step

from .builders import IMAGE, NOW, database, migration, of, run, stand

LIMIT = 256 * 1024
"""Bytes of an object's annotations (k8s.io/apimachinery pkg/api/validation, TotalAnnotationSizeLimitB)."""
SOURCE = SourceSeen("c0ffee", (({"m1.sql": "SELECT 1"}, {}),))
BASE = database(spec={"schemas": [f"{n:03}" + "\u0001" * 60 for n in range(64)]})


def checked(text: str, number: int = 32):
    """A migration with so many checks of that text, and with all else that a request can hold."""
    checks = [{"name": f"check {n}", "sql": text} for n in range(number)]
    resolve = [{"migration": f"{n:03}" + "\u20ac" * 200, "as": "Applied"} for n in range(32)]
    return migration(spec={"verify": {"checks": checks}, "resolve": resolve, "baseline": "\u20ac" * 255})


def decided(own):
    return decide(MigrationSeen(migration=own, image=IMAGE, database=BASE, source=SOURCE), NOW)


def largest(own):
    """Bytes of the annotations of the largest pod of a run of that migration."""
    policy = policy_of(BASE.spec, own.spec)
    made = run(spec={"policy": policy, "schemas": BASE.spec.schemas})
    jobs = [build_job(step.build(1, NOW)) for step in (apply_step(made, None), revert_step(made))]
    marks = [job["spec"]["template"]["metadata"]["annotations"] for job in jobs]
    return max(sum(len(k) + len(v.encode()) for k, v in each.items()) for each in marks)


@pytest.mark.parametrize(
    ("own", "accepted"),
    [
        pytest.param(checked("x" * 4_096), False, id="as many and as long as the schema takes"),
        pytest.param(checked("\u20ac" * 2_000), False, id="few characters of many bytes"),
        pytest.param(checked('"' * 2_000), False, id="characters that JSON writes as two"),
        pytest.param(checked("x" * 1_000), True, id="as many, and not so long"),
        pytest.param(checked("x" * 4_096, number=8), True, id="as long, and not so many"),
    ],
)
def test_checks_that_no_step_could_be_given_are_refused_before_they_are_planned(own, accepted):
    decision = decided(own)
    assert (len(of(decision, StartStep)) == 1) is accepted
    assert (stand(decision)[1:] == ("RequestTooLarge", True)) is not accepted
    assert largest(own) <= LIMIT or not accepted
    if not accepted:
        message = decision.status.condition("Ready").message
        assert all(words in message for words in ("bytes", "Nothing was changed.", "spec.verify"))


@pytest.mark.parametrize("text", ["x", "\u20ac", '"', "\u0001"])
def test_the_longest_checks_that_are_accepted_fit(text):
    accepted = [n for n in range(50, 4_000, 50) if of(decided(checked(text * n)), StartStep)]
    assert max(accepted) > 50
    assert largest(checked(text * max(accepted))) <= LIMIT
    assert Reason.REQUEST_TOO_LARGE.terminal
