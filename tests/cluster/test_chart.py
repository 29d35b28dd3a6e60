"""What the chart renders: rights, security, one replica, the committed CRDs; bad values are refused."""

from typing import Any

import pytest
import yaml
from conformance.kubernetes import CHART, CommandError, Node

from godwit.api.kinds import KINDS

Manifest = dict[str, Any]
CRDS = CHART.parents[1] / "crds"


def rendered(node: Node, *values: str) -> list[Manifest]:
    text = node.helm("template", "godwit", str(CHART), "-n", "ops", *(f"--set={v}" for v in values))
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def of(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [m for m in manifests if m["kind"] == kind]


def rules(manifests: list[Manifest]) -> list[Manifest]:
    return [rule for m in manifests if m["kind"] in ("Role", "ClusterRole") for rule in m.get("rules") or []]


@pytest.mark.parametrize("values", [(), ("clusterWide=true",)], ids=["namespaced", "cluster-wide"])
def test_no_right_on_secrets_and_no_wildcard(node: Node, values: tuple[str, ...]):
    found = rules(rendered(node, *values))

    assert found
    for rule in found:
        assert "secrets" not in rule["resources"]
        assert not any("*" in entry for part in ("apiGroups", "resources", "verbs") for entry in rule[part])


def test_by_default_the_rights_end_at_the_release_namespace(node: Node):
    manifests = rendered(node)

    assert not of(manifests, "ClusterRole") + of(manifests, "ClusterRoleBinding")
    assert {m["metadata"]["namespace"] for m in of(manifests, "Role")} == {"ops"}


def test_each_watched_namespace_gets_a_role_and_the_operator_is_told(node: Node):
    manifests = rendered(node, "watchNamespaces={shop,crm}")
    (deployment,) = of(manifests, "Deployment")
    args = deployment["spec"]["template"]["spec"]["containers"][0]["args"]

    bound = {m["metadata"]["namespace"] for m in of(manifests, "RoleBinding")}
    assert bound == {"ops", "shop", "crm"}, "its own only for the Lease"
    own = next(m for m in of(manifests, "Role") if m["metadata"]["namespace"] == "ops")
    assert {r for rule in own["rules"] for r in rule["resources"]} == {"leases"}
    assert args == [
        "operator",
        "--namespace=shop",
        "--namespace=crm",
        "--lease-name=godwit",
        "--max-concurrent-steps=10",
    ]


def test_cluster_wide_is_one_cluster_role(node: Node):
    manifests = rendered(node, "clusterWide=true")
    (deployment,) = of(manifests, "Deployment")

    assert len(of(manifests, "ClusterRole")) == len(of(manifests, "ClusterRoleBinding")) == 1
    assert "--all-namespaces" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]


def test_the_crds_are_the_generated_ones_and_stay(node: Node):
    found = {m["metadata"]["name"]: m for m in of(rendered(node), "CustomResourceDefinition")}
    committed = {
        m["metadata"]["name"]: m for m in (yaml.safe_load(f.read_text()) for f in CRDS.glob("*.yaml"))
    }

    assert found == committed
    assert len(found) == len(KINDS)
    assert all(m["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for m in found.values())


def test_the_crds_can_be_left_out(node: Node):
    assert not of(rendered(node, "crds.install=false"), "CustomResourceDefinition")


def test_a_packed_chart_has_the_crds_too(node: Node):
    node.helm("package", str(CHART), "--destination", str(node.work))
    (packed,) = node.work.glob("godwit-*.tgz")

    text = node.helm("template", "godwit", str(packed))
    assert len(of([m for m in yaml.safe_load_all(text) if m], "CustomResourceDefinition")) == len(KINDS)


def test_the_operator_is_one_restricted_pod(node: Node):
    (deployment,) = of(rendered(node), "Deployment")
    spec = deployment["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]

    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    names = {e["name"] for e in container["env"]}
    assert names == {"GODWIT_STEP_IMAGE", "POD_NAMESPACE"}


@pytest.mark.parametrize(
    ("values", "image"),
    [
        (("image.tag=1.2",), "r/godwit:1.2"),
        (("image.digest=sha256:" + "a" * 64, "image.tag=1.2"), "r/godwit@sha256:" + "a" * 64),
    ],
    ids=["by tag", "by digest"],
)
def test_operator_and_steps_use_the_same_image(node: Node, values: tuple[str, ...], image: str):
    (deployment,) = of(rendered(node, "image.repository=r/godwit", *values), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]

    assert container["image"] == image
    assert {"name": "GODWIT_STEP_IMAGE", "value": image} in container["env"]


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("nonsense=1", "nonsense"),
        ("maxConcurrentSteps=0", "maxConcurrentSteps"),
        ("image.digest=latest", "digest"),
        ("watchNamespaces={Not_A_Name}", "watchNamespaces"),
        ("clusterWide=true,watchNamespaces={a}", "not"),
        ("resources.claims=1", "claims"),
    ],
)
def test_bad_values_are_refused_by_name(node: Node, value: str, word: str):
    with pytest.raises(CommandError, match=word):
        rendered(node, value)


def test_the_lease_role_covers_one_lease_alone(node: Node):
    lease = [rule for rule in rules(rendered(node)) if rule["resources"] == ["leases"]]

    assert [(rule.get("resourceNames"), rule["verbs"]) for rule in lease] == [
        (None, ["create"]),
        (["godwit"], ["get", "update"]),
    ]


def test_names_that_yaml_would_read_as_something_else_stay_names(node: Node):
    words = [
        "template",
        "123",
        str(CHART),
        "-n",
        "456",
        "--set-string=watchNamespaces={on,789},priorityClassName=1",
    ]
    manifests = [m for m in yaml.safe_load_all(node.helm(*words)) if m]
    (deployment,) = of(manifests, "Deployment")
    pod = deployment["spec"]["template"]
    metadata = [m["metadata"] for m in (*manifests, pod)]

    for labels in [m.get("labels", {}) for m in metadata] + [deployment["spec"]["selector"]["matchLabels"]]:
        assert {type(value) for value in labels.values()} <= {str}
    assert {m["metadata"]["namespace"] for m in of(manifests, "RoleBinding")} == {"456", "on", "789"}
    assert {s["namespace"] for m in of(manifests, "RoleBinding") for s in m["subjects"]} == {"456"}
    assert pod["spec"]["priorityClassName"] == "1"


def test_the_metrics_service_selects_the_operator(node: Node):
    manifests = rendered(node)
    (service,), (deployment,) = of(manifests, "Service"), of(manifests, "Deployment")

    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    ports = {p["name"] for p in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    assert service["spec"]["ports"][0]["targetPort"] in ports
