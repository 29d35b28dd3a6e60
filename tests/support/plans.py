"""What a run is given of a plan."""

from godwit.contract.outcome import PlanOutcome
from godwit.contract.request import Direction, PlanRef


def ref_of(planned: PlanOutcome) -> PlanRef:
    """As the controller writes it into a run, and also where nothing is pending."""
    return PlanRef(
        content=planned.content,
        plan=planned.plan,
        direction=planned.direction or Direction.UP,
        from_state=planned.from_state,
        to_state=planned.to_state,
        target=planned.target,
    )
