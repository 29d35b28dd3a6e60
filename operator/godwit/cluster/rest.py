"""Requests to the API server, and the one place where foreign errors become our own."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import yaml
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from godwit.api.common import GROUP, VERSION
from godwit.api.kinds import KINDS
from godwit.cluster.port import UnavailableError

Manifest = dict[str, Any]

JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
FIELD_MANAGER = "godwit"
"""Field manager of everything but statuses."""
_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=5)
_ALIKE = timedelta(seconds=2)
"""Clocks that differ by no more are taken for the same: an answer tells whole seconds, and takes a moment."""
_NOT_TYPED = "failed to create typed patch object"
"""How the API server says, with status 500, that an applied object does not fit the schema's types."""
_NO_WEBHOOK = "failed calling webhook"
"""How it says, with status 500, that an admission webhook did not answer (k8s.io/apiserver, admission)."""
_PLACES = {
    **{kind: (f"apis/{GROUP}/{VERSION}", model.PLURAL) for kind, model in KINDS.items()},
    "ConfigMap": ("api/v1", "configmaps"),
    "Namespace": ("api/v1", "namespaces"),
    "Pod": ("api/v1", "pods"),
    "CoreEvent": ("api/v1", "events"),
    "Event": ("apis/events.k8s.io/v1", "events"),
    "Job": ("apis/batch/v1", "jobs"),
    "Lease": ("apis/coordination.k8s.io/v1", "leases"),
}


class AnswerError(Exception):
    """The API server answered with an error that says something about the object.

    `reason` is the machine-readable one of metav1.Status (NotFound, AlreadyExists, Conflict, Invalid, ...),
    `causes` the types of its details; the message is the server's own.
    """

    def __init__(self, status: int, body: Manifest) -> None:
        super().__init__(body.get("message") or f"the API server answered {status}")
        self.status = status
        self.reason = body.get("reason", "")
        self.causes = {c.get("reason") for c in (body.get("details") or {}).get("causes") or ()}


@contextlib.contextmanager
def logging_in(files: str) -> Iterator[None]:
    """For loading a login from a kubeconfig, of whatever content. Raises UnavailableError.

    Only what a file's place or a certificate have wrong is quoted: a parser's text shows what it read.
    """
    if files and not any(Path(file).expanduser().is_file() for file in files.split(os.pathsep) if file):
        raise UnavailableError(f"No login to a cluster: there is no kubeconfig {files}.")
    try:
        yield
    except (ConfigException, OSError) as error:
        raise UnavailableError(f"No login to a cluster by {files or 'the account'}: {error}") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        what = type(error).__name__
        raise UnavailableError(f"No login to a cluster: {files} is no kubeconfig ({what}).") from None


def path_of(kind: str, namespace: str, name: str = "", sub: str = "") -> str:
    """Path of an object, a collection (no *name*) or a subresource. Raises KeyError for another kind."""
    root, plural = _PLACES[kind]
    parts = [root, *(("namespaces", namespace) if namespace else ()), plural, name, sub]
    return "/" + "/".join(quote(part, safe="/") for part in parts if part)


def type_of(kind: str) -> Manifest:
    """`apiVersion` and `kind`, which the API server leaves out of the items of a list."""
    root = _PLACES[kind][0]
    return {"apiVersion": root.removeprefix("apis/").removeprefix("api/"), "kind": kind}


class Rest:
    """JSON in, JSON out, over one pool of connections."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._ahead = timedelta(0)
        """How far the API server's clock is ahead of ours, by its last answer."""

    @staticmethod
    async def connect(kubeconfig: str | None) -> "Rest":
        """A client that is logged in, having sent nothing yet.

        By that kubeconfig's current context, or with None by the pod's own service account, whose token is
        read again as it is renewed. Raises UnavailableError where neither is to be had.
        """
        configuration = Configuration()
        if kubeconfig is None:
            try:
                load_incluster_config(client_configuration=configuration)
            except ConfigException as error:
                text = f"No login to a cluster: no kubeconfig is named, and this is no pod ({error})"
                raise UnavailableError(text) from None
        with logging_in(kubeconfig or ""):
            if kubeconfig is not None:
                await load_kube_config(kubeconfig, client_configuration=configuration, persist_config=False)
            # Python 3.13 refuses authorities that leave out what RFC 5280 asks for, as many clusters' own do
            # (no key usage, no key identifier). The chain and the host name are verified all the same.
            configuration.disable_strict_ssl_verification = True
            return Rest.of(configuration)

    @staticmethod
    def of(configuration: Configuration) -> "Rest":
        """A client with that login. Raises OSError where its certificates are none."""
        client = ApiClient(configuration)
        client.user_agent = "godwit"
        return Rest(client)

    def now(self) -> datetime:
        """The API server's time, in UTC; our own before it has answered."""
        return datetime.now(UTC) + self._ahead

    def _hear(self, date: str | None) -> None:
        """Take notice of the time in an answer (`Date`, RFC 9110, section 6.6.1)."""
        with contextlib.suppress(ValueError, TypeError):
            ahead = parsedate_to_datetime(date or "").astimezone(UTC) - datetime.now(UTC)
            self._ahead = ahead if abs(ahead) > _ALIKE else timedelta(0)

    @property
    def _host(self) -> str:
        """Its address, without what a person may have put before the @."""
        return re.sub(r"//[^/@]*@", "//", str(self._client.configuration.host))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Manifest | list[Manifest] | None = None,
        *,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        """Send a request and return the object in the answer.

        Raises AnswerError where the server refuses, UnavailableError where it does not answer, is overloaded
        or failing, or does not let us in: then the same request may be sent again later.
        """
        content = await self._send(method, path, body, query, content_type)
        try:
            found: Manifest = json.loads(content)
        except ValueError:
            raise UnavailableError(f"What answers at {self._host} is no API server.") from None
        return found

    async def text(self, path: str, query: dict[str, str]) -> str:
        """What is to be read at *path* (a log). Raises as `call`."""
        return (await self._send("GET", path, None, query, "application/json")).decode("utf-8", "replace")

    async def _send(
        self,
        method: str,
        path: str,
        body: Manifest | list[Manifest] | None,
        query: dict[str, str] | None,
        content_type: str,
    ) -> bytes:
        try:
            method, url, headers, data, _ = await self._client.param_serialize(
                method,
                path + (f"?{urlencode(query)}" if query else ""),
                header_params={"Accept": "application/json, */*", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._client.call_api(
                method, url, header_params=headers, body=data, _request_timeout=_TIMEOUT
            )
            self._hear(answer.headers.get("Date"))
            content: bytes = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # Only the kind: the text of some of these holds addresses that change from try to try.
            text = f"The API server at {self._host} does not answer ({type(error).__name__})."
            raise UnavailableError(text) from error
        if answer.status >= 400:
            raise _error(answer.status, content)
        return content


def _error(status: int, content: bytes) -> AnswerError | UnavailableError:
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    error = AnswerError(
        status, body if isinstance(body, dict) else {"message": content[:200].decode("utf-8", "replace")}
    )
    if status == 500 and _NOT_TYPED in str(error):
        return AnswerError(422, {"message": str(error), "reason": "Invalid"})
    if (status in {401, 429} or status >= 500) and _NO_WEBHOOK not in str(error):
        return UnavailableError(f"The API server answers {status}: {error}")
    return error
