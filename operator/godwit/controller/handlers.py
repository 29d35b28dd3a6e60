"""kopf watches, and nothing more: its event handlers tell the controller who changed.

No kopf daemons, timers, change or delete handlers: those work on edges, write progress into annotations and
manage
finalizers of their own. Ours are level-based, and the finalizers are the planners'.
"""

import asyncio
import os
from typing import Any

import kopf

from godwit.api.common import GROUP, VERSION
from godwit.api.kinds import KINDS
from godwit.cluster.jobs import OWNER_ANNOTATION, STEP_SELECTOR
from godwit.controller.loop import Controller


def registry_of(controller: Controller, kubeconfig: str | None) -> kopf.OperatorRegistry:
    """Handlers of events for the five kinds, ConfigMaps, and the Jobs and pods of steps."""
    registry = kopf.OperatorRegistry()

    async def ours(event: kopf.RawEvent, **_: Any) -> None:
        manifest = _plain(event)
        if event["type"] == "DELETED":
            meta = manifest["metadata"]
            controller.gone(manifest["kind"], meta["namespace"], meta["name"])
        else:
            controller.changed(manifest)

    async def step(event: kopf.RawEvent, **_: Any) -> None:
        meta = _plain(event)["metadata"]
        kind, _slash, name = meta.get("annotations", {}).get(OWNER_ANNOTATION, "").partition("/")
        if name:
            controller.step_changed(kind, meta["namespace"], name)

    async def config_map(event: kopf.RawEvent, **_: Any) -> None:
        manifest = {**_plain(event), "kind": "ConfigMap"}
        meta = manifest["metadata"]
        if event["type"] == "DELETED":
            controller.gone("ConfigMap", meta["namespace"], meta["name"])
        else:
            controller.changed(manifest)

    async def login(**_: Any) -> kopf.ConnectionInfo | None:
        if kubeconfig is None:
            return kopf.login_with_service_account(**_)
        os.environ["KUBECONFIG"] = kubeconfig  # the only way to tell kopf which file
        return kopf.login_with_kubeconfig(**_)

    kopf.on.login(registry=registry, errors=kopf.ErrorsMode.PERMANENT)(login)
    for model in KINDS.values():
        kopf.on.event(GROUP, VERSION, model.PLURAL, registry=registry)(ours)
    kopf.on.event("", "v1", "configmaps", registry=registry)(config_map)
    kopf.on.event("batch", "v1", "jobs", registry=registry)(step)
    kopf.on.event("", "v1", "pods", registry=registry)(step)
    return registry


def settings() -> kopf.OperatorSettings:
    """Kopf's settings: our own domain everywhere, no events of its own, server-side selection of steps."""
    made = kopf.OperatorSettings()
    made.persistence.finalizer = f"{GROUP}/kopf-unused"
    made.persistence.progress_storage = kopf.StatusProgressStorage(field="status.unused")
    made.posting.enabled = False
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
        stop_flag=stop,
        ready_flag=ready,
    )


def _plain(event: kopf.RawEvent) -> dict[str, Any]:
    """The object of an event as a plain manifest."""
    return dict(event["object"])
