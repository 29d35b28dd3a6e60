"""What a verb ends in that must not get through."""

from collections.abc import Callable

import pytest

from godwit.contract.outcome import Failure, VerbOutcome
from godwit.engine.errors import StepFailed


def failure_of(call: Callable[[], object]) -> tuple[Failure, VerbOutcome | None]:
    """The failure that *call* must raise, and the outcome beside it."""
    with pytest.raises(StepFailed) as caught:
        call()
    return caught.value.failure, caught.value.outcome
