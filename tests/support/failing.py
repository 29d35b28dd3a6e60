"""What a verb ends in that must not get through."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from project import Project

from godwit.contract.outcome import ApplyOutcome, Failure, VerbOutcome
from godwit.engine.errors import StepFailed


def failure_of(call: Callable[[], object]) -> tuple[Failure, VerbOutcome | None]:
    """The failure that *call* must raise, and the outcome beside it."""
    with pytest.raises(StepFailed) as caught:
        call()
    return caught.value.failure, caught.value.outcome


def refused_under(project: Project, *, step: Mapping[str, Any] | None = None, **limits: Any) -> Failure:
    """The failure of what is pending, of which nothing must be applied, under these *limits* of the policy.

    *step*: what else is asked otherwise of the step, as `Project.apply` takes it.
    """
    policy = project.policy(**limits)
    plan = project.plan(policy=policy)
    failure, outcome = failure_of(lambda: project.apply("u2", plan=plan, policy=policy, **(step or {})))
    assert isinstance(outcome, ApplyOutcome)
    assert outcome.applied == 0
    return failure
