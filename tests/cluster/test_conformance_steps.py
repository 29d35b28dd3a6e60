"""The port's conformance suite, steps: each of the six states, and what starting and deleting do."""

from dataclasses import replace

from conformance.bed import SECRET, Bed, check_step, config_map, database, eventually, observe

from godwit.api.migration import PinnedSource
from godwit.contract.policy import SqlCheck
from godwit.contract.reasons import Reason
from godwit.contract.request import VerifyInput
from godwit.planner.decision import StepSeen, StepSpec, StepState

UNREADABLE = "postgresql://app@db.invalid/shop?no_such_parameter=1"
"""A URI that the step refuses before it opens any connection."""


async def until(bed: Bed, spec: StepSpec, state: StepState) -> StepSeen:
    return await eventually(lambda: observe(bed, spec), lambda seen: seen.state is state)


async def prepared(bed: Bed, uri: str | None = UNREADABLE) -> StepSpec:
    """A step, not yet started, of a fresh PostgresDatabase; with *uri* in its Secret, or without a Secret."""
    if uri is not None:
        await bed.secret(SECRET, uri=uri)
    return check_step(await bed.cluster.create(database(bed)), bed)


async def test_gone_a_step_that_was_never_started(bed: Bed):
    assert await observe(bed, await prepared(bed)) == StepSeen(StepState.GONE)


async def test_finished_a_step_that_left_an_outcome(bed: Bed):
    spec = await prepared(bed)
    await bed.cluster.start_step(spec)

    seen = await until(bed, spec, StepState.FINISHED)
    assert seen.reason is None
    assert not seen.foreign
    assert seen.outcome is not None
    assert seen.outcome.request_hash == spec.request.hash
    assert seen.outcome.failure is not None
    assert seen.outcome.failure.reason is Reason.CONNECTION_INVALID


async def test_the_request_arrives_as_it_was_written(bed: Bed):
    odd = SqlCheck(name="odd", sql="SELECT '$(HOME) $$ ${PATH} \"ä\\n\"' = $q$\n$q$")
    await bed.secret(SECRET, uri=UNREADABLE)
    owner = await bed.cluster.create(database(bed))
    spec = check_step(owner, bed, "shop-check-1", VerifyInput(state="x", checks=(odd,)))
    await bed.cluster.start_step(spec)

    seen = await until(bed, spec, StepState.FINISHED)
    assert seen.outcome is not None
    assert seen.outcome.request_hash == spec.request.hash


async def test_starting_again_starts_nothing_new(bed: Bed):
    spec = await prepared(bed)
    await bed.cluster.start_step(spec)
    first = await until(bed, spec, StepState.FINISHED)

    await bed.cluster.start_step(spec)
    assert await observe(bed, spec) == first


async def test_a_step_of_another_owner_or_another_request_is_foreign(bed: Bed):
    spec = await prepared(bed)
    await bed.cluster.start_step(spec)

    other = await bed.cluster.observe_step(spec.job, spec.namespace, "another-uid", spec.request.hash)
    assert other.foreign
    assert other.outcome is None
    other = await bed.cluster.observe_step(spec.job, spec.namespace, spec.owner.uid, "another-hash")
    assert other.foreign
    changed = replace(spec, request=spec.request.model_copy(update={"attempt": 2}))
    await bed.cluster.start_step(changed)
    assert (await observe(bed, changed)).foreign, "the first one stays, whoever starts a second one"
    assert not (await observe(bed, spec)).foreign


async def test_pending_until_the_secret_is_there_then_it_starts_by_itself(bed: Bed):
    spec = await prepared(bed, uri=None)
    await bed.cluster.start_step(spec)

    seen = await eventually(lambda: observe(bed, spec), lambda s: s.reason is Reason.SECRET_MISSING)
    assert seen.state is StepState.PENDING
    assert SECRET in seen.message
    await bed.secret(SECRET, uri=UNREADABLE)
    await until(bed, spec, StepState.FINISHED)


async def test_pending_until_the_secret_has_the_key(bed: Bed):
    spec = await prepared(bed, uri=None)
    await bed.secret(SECRET, other="x")
    await bed.cluster.start_step(spec)

    seen = await eventually(lambda: observe(bed, spec), lambda s: s.reason is Reason.SECRET_MISSING)
    assert seen.state is StepState.PENDING
    assert "uri" in seen.message


async def test_no_pod_where_the_cluster_refuses_one(bed: Bed):
    spec = await prepared(bed)
    await bed.refuse_pods()
    await bed.cluster.start_step(spec)

    seen = await eventually(lambda: observe(bed, spec), lambda s: s.reason is Reason.POD_REFUSED)
    assert seen.state is StepState.NO_POD
    assert "quota" in seen.message


async def test_running_and_then_deleted(bed: Bed):
    host, port = await bed.silent_server()
    spec = await prepared(bed, f"postgresql://app:secret@{host}:{port}/shop")
    await bed.cluster.start_step(spec)

    seen = await until(bed, spec, StepState.RUNNING)
    assert (seen.reason, seen.outcome) == (None, None)
    await bed.cluster.delete_step(spec.namespace, spec.job)
    await until(bed, spec, StepState.GONE)


async def test_crashed_a_step_that_was_killed(bed: Bed):
    host, port = await bed.silent_server()
    spec = await prepared(bed, f"postgresql://app:secret@{host}:{port}/shop")
    await bed.cluster.start_step(spec)
    await until(bed, spec, StepState.RUNNING)

    await bed.kill(spec.job)
    seen = await until(bed, spec, StepState.CRASHED)
    assert seen.reason is Reason.STEP_CRASHED
    assert seen.message
    assert seen.outcome is None


async def test_deleting_a_finished_step(bed: Bed):
    spec = await prepared(bed)
    await bed.cluster.start_step(spec)
    await until(bed, spec, StepState.FINISHED)

    for _ in range(2):
        await bed.cluster.delete_step(spec.namespace, spec.job)
    await until(bed, spec, StepState.GONE)


async def test_a_step_goes_with_its_owner(bed: Bed):
    spec = await prepared(bed)
    await bed.cluster.start_step(spec)
    await until(bed, spec, StepState.FINISHED)

    await bed.remove("PostgresDatabase", "shop")
    await until(bed, spec, StepState.GONE)


async def test_a_step_whose_source_was_pinned_gets_its_files(bed: Bed):
    await bed.secret(SECRET, uri=UNREADABLE)
    owner = await bed.cluster.create(database(bed))
    for number in range(2):
        await bed.cluster.create(
            config_map(bed, f"pinned-{number}", data={f"{number}.sql": "SELECT 1;"}, immutable=True)
        )
    spec = replace(check_step(owner, bed), source=PinnedSource(config_maps=("pinned-0", "pinned-1")))
    await bed.cluster.start_step(spec)

    seen = await until(bed, spec, StepState.FINISHED)
    assert seen.outcome is not None
