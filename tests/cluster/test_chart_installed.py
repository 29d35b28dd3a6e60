"""The chart on a real API server: what its service account may do, and what becomes of CRDs and objects."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from conformance.kubernetes import CHART, CommandError, Node

from godwit.api.kinds import KINDS


@dataclass(frozen=True)
class Release:
    node: Node
    namespace: str

    def can(self, *words: str, namespace: str | None = None) -> bool:
        """`kubectl auth can-i` as the operator's service account."""
        account = f"system:serviceaccount:{self.namespace}:godwit"
        try:
            answer = self.node.kubectl(
                "auth", "can-i", *words, "-n", namespace or self.namespace, f"--as={account}"
            )
        except CommandError as error:
            if not str(error).endswith("\nno"):
                raise
            return False
        return answer.strip() == "yes"


@pytest.fixture(scope="module")
def release(node: Node) -> Iterator[Release]:
    """The chart with its defaults, in a namespace that takes only restricted pods."""
    namespace = node.namespace("chart")
    node.helm(
        "install", "godwit", str(CHART), "-n", namespace, "--set=crds.install=false",
        node.image_values,
    )  # fmt: skip
    yield Release(node, namespace)
    node.remove_namespace(namespace)


@pytest.mark.parametrize("verb", ["get", "list", "watch", "create", "update", "patch", "delete"])
def test_the_operator_has_no_right_on_secrets(release: Release, verb: str):
    assert not release.can(verb, "secrets")
    assert not release.can(verb, "secrets", namespace="kube-system")


@pytest.mark.parametrize(
    "words",
    [
        ("list", "databasemigrations.godwit.dev"),
        ("watch", "postgresdatabases.godwit.dev"),
        ("patch", "databasemigrations.godwit.dev"),
        ("patch", "databasemigrations.godwit.dev", "--subresource=status"),
        ("create", "migrationruns.godwit.dev"),
        ("create", "jobs.batch"),
        ("delete", "jobs.batch"),
        ("watch", "pods"),
        ("get", "pods", "--subresource=log"),
        ("create", "configmaps"),
        ("create", "events.events.k8s.io"),
        ("create", "leases.coordination.k8s.io"),
        ("update", "leases.coordination.k8s.io/godwit"),
    ],
    ids=" ".join,
)
def test_the_operator_may_do_its_work(release: Release, words: tuple[str, ...]):
    assert release.can(*words)


@pytest.mark.parametrize(
    "words",
    [
        ("create", "pods"),
        ("create", "pods", "--subresource=exec"),
        ("delete", "databasemigrations.godwit.dev"),
        ("delete", "postgresdatabases.godwit.dev"),
        ("delete", "persistentvolumeclaims"),
        ("delete", "namespaces"),
        ("create", "serviceaccounts", "--subresource=token"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("impersonate", "serviceaccounts"),
        ("update", "leases.coordination.k8s.io/other"),
    ],
    ids=" ".join,
)
def test_the_operator_may_not_do_more(release: Release, words: tuple[str, ...]):
    assert not release.can(*words)


def test_its_rights_end_at_its_namespace(release: Release):
    for words in (("list", "databasemigrations.godwit.dev"), ("create", "jobs.batch"), ("get", "pods")):
        assert not release.can(*words, namespace="default")


def test_crds_and_objects_outlive_the_release_that_installed_them(node: Node):
    namespace = node.namespace("keep")
    database = {
        "apiVersion": "godwit.dev/v1alpha1",
        "kind": "PostgresDatabase",
        "metadata": {"name": "shop", "namespace": namespace},
        "spec": {"connection": {"uriFrom": {"name": "db", "key": "uri"}}, "backup": {"required": False},
                 "environment": "Development"},
    }  # fmt: skip
    node.apply(database)
    before = node.read("postgresdatabase", "shop", "-n", namespace)["metadata"]["uid"]
    try:
        node.helm("uninstall", "crds", "-n", "godwit-crds", "--wait")
        left = node.kubectl("get", "crd", "-o", "name")
        assert all(f"/{kind.PLURAL}.godwit.dev" in left for kind in KINDS.values())
    finally:
        node.helm(
            "install", "crds", str(CHART), "--namespace=godwit-crds",
            node.image_values,
        )  # fmt: skip
    after = node.read("postgresdatabase", "shop", "-n", namespace)["metadata"]["uid"]
    node.remove_namespace(namespace)
    assert after == before
