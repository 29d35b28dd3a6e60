"""A person's login to a cluster, chosen as kubectl chooses it (kubernetes.io, "Organizing Cluster Access").

The operator does not come here: it logs in by its service account, or by a file that is named to it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import list_kube_config_contexts, load_kube_config

from godwit.cluster.kubernetes import KubernetesCluster
from godwit.cluster.port import UnavailableError
from godwit.cluster.rest import Rest, logging_in


class Login(NamedTuple):
    """A cluster, and the namespace of the context that led there."""

    cluster: KubernetesCluster
    namespace: str


async def log_in(
    kubeconfig: str | None = None,
    context: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Login:
    """Log in by *kubeconfig*, else $KUBECONFIG (several files, merged), else ~/.kube/config.

    *context* is that file's current one by default. Nothing is sent yet. Raises UnavailableError where there
    is no such file or context, or the credentials are of no use.
    """
    files = kubeconfig or environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    configuration = Configuration()
    with logging_in(files):
        contexts, current = list_kube_config_contexts(files)
        chosen = next((c for c in contexts if c["name"] == context), None) if context else current
        if chosen is None:
            raise UnavailableError(f"No login to a cluster: {files} has no context {context}.")
        await load_kube_config(
            files, context=chosen["name"], client_configuration=configuration, persist_config=False
        )
        cluster = KubernetesCluster(Rest.of(configuration))
    return Login(cluster, chosen["context"].get("namespace") or "default")
