"""kopf watches, and nothing more: its event handlers tell the controller who changed.

No kopf daemons, timers, change or delete handlers: those work on edges, write progress into annotations and
manage finalizers of their own. Ours are level-based, and the finalizers are the planners'.
"""

import asyncio
import itertools
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kopf

from godwit.api.common import GROUP, VERSION
from godwit.api.kinds import KINDS
from godwit.cluster.jobs import OWNER_ANNOTATION, STEP_SELECTOR
from godwit.cluster.observation import step_ended
from godwit.controller.loop import Controller
from godwit.controller.references import CONFIG_MAP

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def registry_of(controller: Controller, kubeconfig: str | None) -> kopf.OperatorRegistry:
    """Handlers of events for the five kinds, ConfigMaps, and the Jobs and pods of steps."""
    registry = kopf.OperatorRegistry()

    async def ours(event: kopf.RawEvent, **_: Any) -> None:
        manifest = _plain(event)
        if event["type"] == "DELETED":
            meta = manifest["metadata"]
            controller.gone(manifest["kind"], meta["namespace"], meta["name"], meta["uid"])
        else:
            controller.changed(manifest)

    ended: set[str] = set()

    async def step(event: kopf.RawEvent, **_: Any) -> None:
        manifest = _plain(event)
        meta = manifest["metadata"]
        news = event["type"] != "DELETED" and meta["uid"] not in ended and step_ended(manifest)
        if news:
            ended.add(meta["uid"])
        elif event["type"] == "DELETED":
            ended.discard(meta["uid"])
        kind, _slash, name = meta.get("annotations", {}).get(OWNER_ANNOTATION, "").partition("/")
        if name:
            controller.step_changed(kind, meta["namespace"], name, ended=news)

    async def config_map(event: kopf.RawEvent, **_: Any) -> None:
        manifest = {**_plain(event), "kind": CONFIG_MAP}
        meta = manifest["metadata"]
        if event["type"] == "DELETED":
            controller.gone(CONFIG_MAP, meta["namespace"], meta["name"])
        else:
            controller.changed(manifest)

    async def login(**_: Any) -> kopf.ConnectionInfo | None:
        if kubeconfig is None:
            return _service_account()
        os.environ["KUBECONFIG"] = kubeconfig  # the only way to tell kopf which file
        return kopf.login_with_kubeconfig(**_)

    kopf.on.login(registry=registry, errors=kopf.ErrorsMode.PERMANENT)(login)
    for model in KINDS.values():
        kopf.on.event(GROUP, VERSION, model.PLURAL, registry=registry)(ours)
    kopf.on.event("", "v1", "configmaps", registry=registry)(config_map)
    kopf.on.event("batch", "v1", "jobs", registry=registry)(step)
    kopf.on.event("", "v1", "pods", registry=registry)(step)
    return registry


class _Patience:
    """Seconds between tries to watch, without end: kopf would give up, and take the other watches with it.

    A namespace that was deleted answers 403 for ever, because its RoleBinding went with it. When the API
    server is away for long, the Lease ends the process.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0), itertools.repeat(30.0))


class _Login(kopf.ConnectionInfo):
    """As strict about certificates as `godwit.cluster.rest` is."""

    def as_ssl_context(self) -> ssl.SSLContext:
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


def _service_account() -> kopf.ConnectionInfo:
    """The pod's own account, at the address that the kubelet gives; kopf's login would need cluster DNS."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    return _Login(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ca_path=str(_ACCOUNT / "ca.crt"),
        token=(_ACCOUNT / "token").read_text(encoding="utf-8").strip(),
    )


def settings() -> kopf.OperatorSettings:
    """Kopf's settings: our own domain everywhere, no events of its own, server-side selection of steps."""
    made = kopf.OperatorSettings()
    made.persistence.finalizer = f"{GROUP}/kopf-unused"
    made.persistence.progress_storage = kopf.StatusProgressStorage(field="status.unused")
    made.posting.enabled = False
    made.networking.error_backoffs = _Patience()
    # Not to look for other namespaces and CRDs: our rights do not reach that far, and each refusal costs kopf
    # a minute of retries before it begins. That ours are there is seen to before kopf is started.
    made.scanning.disabled = True
    made.watching.label_selectors["batch", "v1", "jobs"] = STEP_SELECTOR
    made.watching.label_selectors["", "v1", "pods"] = STEP_SELECTOR
    return made


async def watch(
    controller: Controller,
    *,
    kubeconfig: str | None,
    namespaces: tuple[str, ...],
    stop: asyncio.Event,
    ready: asyncio.Event,
) -> None:
    """Watch until *stop* is set; no namespaces means the whole cluster. Ends early when kopf cannot watch."""
    await kopf.operator(
        registry=registry_of(controller, kubeconfig),
        settings=settings(),
        namespaces=namespaces,
        clusterwide=not namespaces,
        standalone=True,
        # Not used without peering; left out, kopf asks for the user's name, and a pod's user has none.
        identity="godwit",  # type: ignore[arg-type]
        stop_flag=stop,
        ready_flag=ready,
    )


def _plain(event: kopf.RawEvent) -> dict[str, Any]:
    """The object of an event as a plain manifest."""
    return dict(event["object"])
