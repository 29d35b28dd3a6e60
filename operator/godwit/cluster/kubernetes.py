"""The port on a real API server: objects and statuses by HTTP, steps as Jobs.

It needs no right on Secrets: a Job names them, and the kubelet reads them.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any, NoReturn

import structlog

from godwit.api.common import API_VERSION, FINALIZER
from godwit.api.kinds import KINDS
from godwit.cluster.jobs import CONTAINER, STEP_LABELS, STEP_SELECTOR, build_job
from godwit.cluster.observation import foreign, is_ours, last_document, newest, past, step_seen, subject
from godwit.cluster.port import ConflictError, GoneError, RefusedError, UnavailableError
from godwit.cluster.rest import (
    APPLY_PATCH,
    FIELD_MANAGER,
    JSON_PATCH,
    AnswerError,
    Rest,
    path_of,
    type_of,
)
from godwit.contract.progress import RunProgress, last_progress
from godwit.contract.request import ObjectRef
from godwit.planner.decision import GONE, StepSeen, StepSpec

Manifest = dict[str, Any]
Manifests = list[Manifest]
Strings = list[str]  # within the class, `list` is the port's method

_TRIES = 8
"""How often a change is tried again on what somebody else changed at the same moment."""
_NOTE_LIMIT = 1024
"""Characters of `note` in events.k8s.io/v1."""
_LOG_LIMIT = 32 * 2**20
"""Bytes of a step's log that are read to find its document."""
_TAIL_LINES = 50
"""Lines from the end of a step's log that are read to find how far it is."""
_log = structlog.get_logger(__name__)


class KubernetesCluster:
    """The port `Cluster` on an API server. All reads go to the server, none to a cache."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    @staticmethod
    async def connect(kubeconfig: str | None = None) -> "KubernetesCluster":
        """Log in by the kubeconfig at that path, or with None as the pod's own service account.

        Never by a person's current context unless its file is named. Raises UnavailableError.
        """
        return KubernetesCluster(await Rest.connect(kubeconfig))

    @property
    def rest(self) -> Rest:
        """The logged-in connection, for the Lease."""
        return self._rest

    def now(self) -> datetime:
        """The time in UTC, to the second as in metav1.Time, by the API server's clock.

        Statuses are compared with each other that several operators wrote, one after the other.
        """
        return self._rest.now().replace(microsecond=0)

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def served_kinds(self) -> set[str]:
        """Those of the five kinds that the API server knows. Any login may ask.

        Raises UnavailableError when it does not say.
        """
        try:
            found = await self._rest.call("GET", f"/apis/{API_VERSION}")
        except AnswerError as error:
            if error.status == 404:
                return set()
            raise _unreadable(error) from error
        names = {resource["name"] for resource in found["resources"]}
        return {kind for kind, model in KINDS.items() if model.PLURAL in names}

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """See Cluster.get."""
        try:
            return await self._rest.call("GET", path_of(kind, namespace, name))
        except AnswerError as error:
            if error.status == 404:
                return None
            raise _unreadable(error) from error

    async def list(self, kind: str, namespace: str) -> Manifests:
        """See Cluster.list."""
        return sorted(await self._select(kind, namespace), key=lambda m: str(m["metadata"]["name"]))

    async def create(self, manifest: Manifest) -> Manifest:
        """See Cluster.create."""
        kind, meta = manifest["kind"], manifest["metadata"]
        namespace, name = meta.get("namespace", ""), meta["name"]
        for _ in range(_TRIES):
            try:
                return await self._rest.call(
                    "POST", path_of(kind, namespace), manifest, query={"fieldManager": FIELD_MANAGER}
                )
            except AnswerError as error:
                if error.reason != "AlreadyExists":
                    _refused(error)
            if (found := await self.get(kind, namespace, name)) is not None:
                return found
        raise UnavailableError(f"{kind} {namespace}/{name} is made and deleted again by somebody else.")

    async def apply_status(self, observed: Manifest, status: Manifest, manager: str) -> Manifest:
        """See Cluster.apply_status. `force`: the manager's name is ours alone, so its fields are too."""
        kind, meta = observed["kind"], observed["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        patch = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
            },
            "status": status,
        }
        try:
            return await self._rest.call(
                "PATCH",
                path_of(kind, namespace, name, "status"),
                patch,
                query={"fieldManager": manager, "force": "true"},
                content_type=APPLY_PATCH,
            )
        except AnswerError as error:
            if error.status == 409 and await self.get(kind, namespace, name) is not None:
                raise ConflictError(str(error)) from error
            if error.status in (404, 409):
                raise GoneError(f"{kind} {namespace}/{name} is gone.") from error
            _refused(error)

    async def set_finalizer(self, kind: str, namespace: str, name: str, uid: str, *, present: bool) -> None:
        """See Cluster.set_finalizer. Raises UnavailableError when it changes all the while."""
        for _ in range(_TRIES):
            found = await self.get(kind, namespace, name)
            if found is None or found["metadata"]["uid"] != uid:
                if present:
                    raise GoneError(f"{kind} {namespace}/{name} is gone.")
                return
            meta = found["metadata"]
            before: Strings = meta.get("finalizers", [])
            if present == (FINALIZER in before):
                return
            if present and "deletionTimestamp" in meta:
                raise GoneError(f"{kind} {namespace}/{name} is being deleted.")
            after = [*before, FINALIZER] if present else [f for f in before if f != FINALIZER]
            if await self._replace_finalizers(found, after):
                return
        raise UnavailableError(f"{kind} {namespace}/{name} changes too often to set its finalizer.")

    async def _replace_finalizers(self, found: Manifest, finalizers: Strings) -> bool:
        """Whether it was done; False where the object is not the one that was read any more."""
        meta = found["metadata"]
        try:
            await self._rest.call(
                "PATCH",
                path_of(found["kind"], meta["namespace"], meta["name"]),
                [
                    {"op": "test", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]},
                    {"op": "add", "path": "/metadata/finalizers", "value": finalizers},
                ],
                query={"fieldManager": FIELD_MANAGER},
                content_type=JSON_PATCH,
            )
        except AnswerError as error:
            unlike = error.status == 422 and not error.causes  # the test failed: no field is at fault
            # A field that is forbidden: no finalizer is added to what is being deleted by now.
            if error.status in (404, 409) or unlike or "FieldValueForbidden" in error.causes:
                return False
            _refused(error)
        return True

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """See Cluster.delete."""
        await self._delete(kind, namespace, name, uid)

    async def start_step(self, spec: StepSpec) -> None:
        """See Cluster.start_step. Raises RefusedError, and GoneError when its namespace is gone."""
        await self.create(build_job(spec))

    async def observe_step(self, job: str, namespace: str, owner_uid: str, request_hash: str) -> StepSeen:
        """See Cluster.observe_step."""
        found = await self.get("Job", namespace, job)
        if found is None:
            return GONE
        if not is_ours(found, owner_uid, request_hash):
            return foreign(found)
        uid = found["metadata"]["uid"]
        pod = newest(await self._select("Pod", namespace, f"batch.kubernetes.io/controller-uid={uid}"))
        about = subject(found, pod)
        warning = await self._last_warning(namespace, about, past(pod)) if about is not None else ""
        return step_seen(found, pod, warning, request_hash)

    async def read_document(self, namespace: str, job: str) -> str | None:
        """See Cluster.read_document."""
        log = await self._log(namespace, job, limitBytes=str(_LOG_LIMIT))
        return None if log is None else last_document(log)

    async def read_progress(self, namespace: str, job: str) -> RunProgress | None:
        """See Cluster.read_progress."""
        log = await self._log(namespace, job, tailLines=str(_TAIL_LINES))
        return None if log is None else last_progress(log.splitlines())

    async def _log(self, namespace: str, job: str, **part: str) -> str | None:
        """*part* of what the step's container printed; None where there is none.

        None too where the kubelet does not give it, which the API server reports as its own error: nothing
        that has to go on depends on a log.
        """
        selector = f"batch.kubernetes.io/job-name={job},{STEP_SELECTOR}"
        pod = newest(await self._select("Pod", namespace, selector))
        if pod is None:
            return None
        path = path_of("Pod", namespace, pod["metadata"]["name"], "log")
        try:
            return await self._rest.text(path, query={"container": CONTAINER, **part})
        except (AnswerError, UnavailableError):
            return None

    async def delete_step(self, namespace: str, job: str) -> None:
        """See Cluster.delete_step. A Job that is not a step's, by its labels, is left alone.

        The pod is deleted by name as well: one that was orphaned would go on working.
        """
        found = await self.get("Job", namespace, job)
        if found is not None:
            labels = found["metadata"].get("labels", {})
            if not STEP_LABELS.items() <= labels.items():
                return
            await self._delete("Job", namespace, job, found["metadata"]["uid"])
        selector = f"batch.kubernetes.io/job-name={job},{STEP_SELECTOR}"
        for pod in await self._select("Pod", namespace, selector):
            await self._delete("Pod", namespace, pod["metadata"]["name"], pod["metadata"]["uid"])

    async def event(self, about: ObjectRef, kind: str, reason: str, message: str) -> None:
        """See Cluster.event. The name is made of the content: the same event is recorded once."""
        note = message if len(message) <= _NOTE_LIMIT else message[: _NOTE_LIMIT - 1] + "…"
        tag = hashlib.sha256(f"{about.uid}\0{kind}\0{reason}\0{note}".encode()).hexdigest()[:16]
        manifest = {
            **type_of("Event"),
            "metadata": {"name": f"{about.name[:230]}.{tag}", "namespace": about.namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "godwit.dev/operator",
            "reportingInstance": "godwit",
            "action": reason,
            "type": kind,
            "reason": reason,
            "note": note,
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": about.kind,
                "namespace": about.namespace,
                "name": about.name,
                "uid": about.uid,
            },
        }
        try:
            await self._rest.call("POST", path_of("Event", about.namespace), manifest)
        except (AnswerError, UnavailableError) as error:
            if not (isinstance(error, AnswerError) and error.reason == "AlreadyExists"):
                _log.warning("event.lost", object=str(about), reason=reason, error=str(error))

    async def _select(self, kind: str, namespace: str, selector: str = "", **query: str) -> Manifests:
        """Objects of a kind; none where the kind itself is unknown (its CRD was deleted)."""
        try:
            answer = await self._rest.call(
                "GET",
                path_of(kind, namespace),
                query={**({"labelSelector": selector} if selector else {}), **query},
            )
        except AnswerError as error:
            if error.status == 404:
                return []
            raise _unreadable(error) from error
        return [{**type_of(kind), **item} for item in answer["items"]]

    async def _last_warning(self, namespace: str, uid: str, but: frozenset[str]) -> str:
        """Message of the last Warning event about that object; empty where there is none.

        *but*: reasons that do not matter.
        """
        found = await self._select(
            "CoreEvent", namespace, fieldSelector=f"involvedObject.uid={uid},type=Warning"
        )
        events = [event for event in found if event.get("reason") not in but]

        def when(event: Manifest) -> str:
            return event.get("lastTimestamp") or event.get("eventTime") or ""

        return str(max(events, key=when, default={}).get("message", ""))

    async def _delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete the object with this uid and, in the background, what it owns."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._rest.call("DELETE", path_of(kind, namespace, name), options)
        except AnswerError as error:
            if error.status not in (404, 409):  # 409: the precondition, so a namesake stands there now
                _refused(error)


def _refused(error: AnswerError) -> NoReturn:
    """Raise what a refused write means to the controller."""
    if error.status == 404 or "NamespaceTerminating" in error.causes:
        raise GoneError(str(error)) from error
    if error.reason == "Conflict":
        raise ConflictError(str(error)) from error
    raise RefusedError(str(error)) from error


def _unreadable(error: AnswerError) -> UnavailableError:
    """A refused read: a missing right, which somebody will grant and then the same read works."""
    return UnavailableError(f"The API server refuses to be read: {error}")
