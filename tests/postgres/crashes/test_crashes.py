"""Random folders, random crash points: afterwards history and catalog agree, and the next attempt finishes.

The step is a real process. A proxy between it and PostgreSQL strikes at a request of its choice: the process
is killed by SIGKILL, or its connections are cut. What an uninterrupted run makes of the same folder is what
must come out in the end.
"""

import os
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, event, given, note, settings
from hypothesis import strategies as st

from godwit.contract.outcome import ApplyOutcome, RevertOutcome, StepOutcome
from godwit.contract.policy import Environment, Policy, SqlCheck, TransactionMode
from godwit.contract.reasons import Reason
from godwit.contract.request import PlanRef, RevertScope, VerbInput

from .evidence import Seen, look, nobody_is_left, nothing_ran_twice, stories_agree, unknowable, whole_state
from .folders import SHAPES, SHAPES_IN_TRANSACTION, Migration, folders
from .proxy import Cut, When
from .stage import Ended, Stage, apply_verbs, revert_verbs

# `make test` looks at some crashes; HYPOTHESIS_PROFILE=nightly looks at many.
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
POLICY = Policy(environment=Environment.DEVELOPMENT, lock_budget_ms=0)
# One that holds, and one that fails where much was done: before the COMMIT, or after it.
CHECKS = (
    (),
    (SqlCheck(name="always", sql="SELECT count(*) >= 0 FROM proof.tally"),),
    (SqlCheck(name="few", sql="SELECT count(*) < 3 FROM proof.tally"),),
)
_FINEST = 10_000


@dataclass(frozen=True)
class Strike:
    """Where to strike, as a share of the requests of an uninterrupted run, and how."""

    share: int
    writing: bool
    """Only requests that may write count: most only look, and little can go wrong there."""
    when: When
    kill: bool
    alone: bool
    at_once: bool
    """Whether the next attempt begins before the server has noticed that the step is gone."""

    def cut(self, calm: Ended) -> Cut:
        """The point that this is in a run like *calm*."""
        points = [
            Cut(connection, number, self.when)
            for connection, requests in enumerate(calm.requests)
            for number, writes in enumerate(requests)
            if writes or not self.writing
        ]
        return points[self.share * len(points) // _FINEST]


STRIKES = st.builds(
    Strike,
    share=st.integers(0, _FINEST - 1),
    writing=st.sampled_from((True, True, False)),
    when=st.sampled_from(When),
    kill=st.sampled_from((True, True, True, False)),
    alone=st.booleans(),
    at_once=st.sampled_from((False, False, True)),
)


@dataclass(frozen=True)
class Story:
    """A folder, what is done with it, and where it is struck: each of the strikes hits another attempt."""

    migrations: tuple[Migration, ...]
    strikes: tuple[Strike, ...]
    back: RevertScope | None
    """Also take it back, struck as well: by the plan's way down, or what the operation itself applied."""
    target: int
    lossy: bool
    checks: tuple[SqlCheck, ...]
    transaction: TransactionMode

    @property
    def policy(self) -> Policy:
        """Of the way there."""
        return POLICY.model_copy(update={"checks": self.checks, "transaction": self.transaction})


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Mostly each migration in its own transaction, where files may hold anything."""
    mode = draw(st.sampled_from((TransactionMode.PER_MIGRATION, *TransactionMode)))
    shapes = SHAPES if mode is TransactionMode.PER_MIGRATION else SHAPES_IN_TRANSACTION
    return Story(
        migrations=draw(folders(shapes=shapes)),
        strikes=tuple(draw(st.lists(STRIKES, min_size=1, max_size=3))),
        back=draw(
            st.sampled_from((None, RevertScope.PLAN, RevertScope.PLAN, RevertScope.OPERATION)),
        ),
        target=draw(st.integers(0, 3)),
        lossy=draw(st.booleans()),
        checks=draw(st.sampled_from((CHECKS[0], *CHECKS))),
        transaction=mode,
    )


def said(outcome: StepOutcome | None) -> dict[str, object]:
    """What an outcome says that must not depend on how often the step was struck."""
    assert outcome is not None
    failure = outcome.failure
    found: dict[str, object] = {
        "failure": failure and (failure.reason, failure.migration, failure.line, failure.sqlstate)
    }
    progress = outcome.get(ApplyOutcome) or outcome.get(RevertOutcome)
    if progress is not None:
        found |= progress.model_dump(include={"applied", "reverted", "total", "current", "state", "partial"})
    return found


def told_the_truth(seen: Seen, outcome: StepOutcome) -> None:
    """What a step said that lost its connection is so; what it cannot know it does not say."""
    progress = outcome.get(ApplyOutcome) or outcome.get(RevertOutcome)
    if isinstance(progress, ApplyOutcome) and progress.state:
        assert progress.applied == len(seen.applied())


def struck_until_done(
    stage: Stage, story: Story, verbs: tuple[VerbInput, ...], operation: str, *, calm: Ended
) -> bool:
    """Strike one attempt after the other, look each time, then let one finish as *calm* did.

    False: a statement was cut off of which nobody can know how far it came, and so the step stopped there.
    """
    verb = verbs[0].verb
    for attempt, strike in enumerate(story.strikes, start=1):
        cut = strike.cut(calm)
        ended = stage.step(verbs, operation, attempt=attempt, cut=cut, kill=strike.kill, alone=strike.alone)
        event(f"{verb}: {'killed' if strike.kill else 'cut off'}" if ended.struck else f"{verb}: not reached")
        if strike.at_once and attempt < len(story.strikes):
            continue
        seen = agreed(stage, story, verb)
        if ended.outcome is not None:
            told_the_truth(seen, ended.outcome)
            failure = ended.outcome.failure
            if failure is not None and failure.terminal and not unknowable(seen, story.migrations, verb):
                assert said(ended.outcome)["failure"] == said(calm.outcome)["failure"], failure
    lost = unknowable(agreed(stage, story, verb), story.migrations, verb)
    final = stage.step(verbs, operation, attempt=len(story.strikes) + 1)
    agreed(stage, story, verb)
    assert final.outcome is not None
    failure = final.outcome.failure
    if lost:
        event("cut off where nobody can tell")
        assert failure is not None
        assert (failure.reason, failure.migration) == (Reason.PARTIALLY_APPLIED, lost)
        return False
    assert said(final.outcome) == said(calm.outcome), failure
    return True


def agreed(stage: Stage, story: Story, verb: str) -> Seen:
    """What there is to see when the step is gone, after making sure that it holds together."""
    nobody_is_left(stage)
    nothing_ran_twice(stage)
    seen = look(stage, story.migrations)
    stories_agree(seen, story.migrations, verb)
    return seen


def way_back(stage: Stage, story: Story, up: PlanRef, calm: Ended) -> tuple[tuple[VerbInput, ...], str]:
    """The step that takes back, and its operation; nothing where there is none to take."""
    if story.back is RevertScope.OPERATION:
        policy = story.policy.model_copy(update={"allow_data_loss": story.lossy})
        # The plan stays that of the way there; what it is taken back by is no part of it.
        return revert_verbs(up, policy, RevertScope.OPERATION), "u1"
    assert calm.outcome is not None
    if story.back is None or calm.outcome.failure is not None:
        return (), ""
    applied = story.migrations
    target = min(story.target, len(applied) - 1)
    while target < len(applied) - 1 and any(m.down is None for m in applied[target + 1 :]):
        target += 1
    if target == len(applied) - 1:
        return (), ""
    plan = stage.plan(POLICY, applied[target].name)
    return revert_verbs(plan, POLICY, RevertScope.PLAN), "u2"


@pytest.mark.slow
@pytest.mark.timeout(4 * 3_600 if NIGHTLY else 600)
@settings(
    max_examples=1_000 if NIGHTLY else 50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Processes and servers are no part of what hypothesis repeats, and shrinking runs each of them again.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    print_blob=True,
)
@given(story=stories())
def test_wherever_a_step_is_struck_the_database_agrees_with_itself_and_the_next_attempt_finishes(beds, story):
    with beds.stages(story.migrations) as (whole, struck):
        calm_plan, plan = whole.plan(story.policy), struck.plan(story.policy)
        calm = whole.step(apply_verbs(calm_plan, story.policy), "u1")
        done = struck_until_done(struck, story, apply_verbs(plan, story.policy), "u1", calm=calm)
        note("\n".join(struck.log))
        if not done:
            return
        assert whole_state(struck) == whole_state(whole)
        verbs, operation = way_back(whole, story, calm_plan, calm)
        if not verbs:
            return
        calm_back = whole.step(verbs, operation)
        verbs, operation = way_back(struck, story, plan, calm)
        done = struck_until_done(struck, story, verbs, operation, calm=calm_back)
        note("\n".join(struck.log))
        assert not done or whole_state(struck) == whole_state(whole)
