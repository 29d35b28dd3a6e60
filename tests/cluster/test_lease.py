"""The Lease on a real API server: one at a time, given back, taken over when its holder is silent, lost."""

import asyncio

import pytest
from conformance.kubernetes import KubernetesBed, create

from godwit.cluster import lease
from godwit.cluster.lease import lead
from godwit.cluster.rest import path_of, type_of


class Operator:
    """Somebody who wants to lead, with the chart's own rights."""

    def __init__(self, bed: KubernetesBed) -> None:
        self.leading = asyncio.Event()
        self.told_to_end = asyncio.Event()
        self.cancelled = False
        self.task = asyncio.create_task(lead(bed.cluster, bed.namespace, "godwit", self._work))

    async def _work(self) -> None:
        self.leading.set()
        try:
            await self.told_to_end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@pytest.fixture
def bed(kubernetes_cluster: KubernetesBed, monkeypatch: pytest.MonkeyPatch) -> KubernetesBed:
    monkeypatch.setattr(lease, "RETRY", 0.2)
    return kubernetes_cluster


async def test_the_second_one_leads_as_soon_as_the_first_has_ended(
    bed: KubernetesBed, monkeypatch: pytest.MonkeyPatch
):
    first = Operator(bed)
    await asyncio.wait_for(first.leading.wait(), 10)
    monkeypatch.setattr(lease.socket, "gethostname", lambda: "another")
    second = Operator(bed)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(second.leading.wait(), 1)

    first.told_to_end.set()
    await asyncio.wait_for(first.task, 10)
    await asyncio.wait_for(second.leading.wait(), 5)
    second.told_to_end.set()
    await asyncio.wait_for(second.task, 10)
    left = await bed.admin.call("GET", path_of("Lease", bed.namespace, "godwit"))
    assert left["spec"].get("holderIdentity", "") == ""
    assert left["spec"]["leaseTransitions"] == 2


async def hold_as_somebody_else(bed: KubernetesBed, seconds: int) -> None:
    metadata = {"name": "godwit", "namespace": bed.namespace}
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": seconds}
    await create(bed.admin, {**type_of("Lease"), "metadata": metadata, "spec": spec})


async def test_a_lease_whose_holder_is_silent_is_taken_over(bed: KubernetesBed):
    await hold_as_somebody_else(bed, 1)
    operator = Operator(bed)

    await asyncio.wait_for(operator.leading.wait(), 10)
    operator.told_to_end.set()
    await asyncio.wait_for(operator.task, 10)


async def test_a_lease_that_another_one_took_ends_the_work(bed: KubernetesBed):
    operator = Operator(bed)
    await asyncio.wait_for(operator.leading.wait(), 10)

    def take(found: dict) -> None:
        found["spec"]["holderIdentity"] = "thief"

    await bed.edit("Lease", "godwit", take)
    await asyncio.wait_for(operator.task, 10)
    assert operator.cancelled
    left = await bed.admin.call("GET", path_of("Lease", bed.namespace, "godwit"))
    assert left["spec"]["holderIdentity"] == "thief", "what is another's is not given back"


async def test_a_lease_that_cannot_be_renewed_ends_the_work(
    bed: KubernetesBed, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "RENEW_DEADLINE", 1.0)
    operator = Operator(bed)
    await asyncio.wait_for(operator.leading.wait(), 10)

    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{bed.namespace}/roles/godwit-lease"
    await bed.admin.call("DELETE", role)
    await asyncio.wait_for(operator.task, 20)
    assert operator.cancelled


async def test_who_is_told_to_end_gives_the_lease_back(bed: KubernetesBed):
    operator = Operator(bed)
    await asyncio.wait_for(operator.leading.wait(), 10)

    operator.task.cancel()
    await asyncio.gather(operator.task, return_exceptions=True)
    assert operator.cancelled
    left = await bed.admin.call("GET", path_of("Lease", bed.namespace, "godwit"))
    assert left["spec"].get("holderIdentity", "") == ""


async def test_who_had_a_renewal_cut_short_gives_the_lease_back_all_the_same(
    bed: KubernetesBed, monkeypatch: pytest.MonkeyPatch
):
    """It may have been written, though nobody read the answer: the next one waited for the Lease's end."""
    monkeypatch.setattr(lease, "RETRY", 60.0)
    operator = Operator(bed)
    await asyncio.wait_for(operator.leading.wait(), 10)

    def renew(found: dict) -> None:
        found["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"

    await bed.edit("Lease", "godwit", renew)
    operator.told_to_end.set()
    await asyncio.wait_for(operator.task, 10)
    left = await bed.admin.call("GET", path_of("Lease", bed.namespace, "godwit"))
    assert left["spec"].get("holderIdentity", "") == ""
