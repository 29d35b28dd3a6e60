"""A person's login: which file, which context, which namespace, as kubectl chooses them."""

import pytest
import yaml

from godwit.cluster.kubeconfig import log_in
from godwit.cluster.port import UnavailableError


def kubeconfig(path, *contexts, current=None):
    """A kubeconfig with contexts (name, namespace), each with a cluster of its own."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": current or contexts[0][0],
        "clusters": [{"name": n, "cluster": {"server": f"https://{n}.example.org"}} for n, _ in contexts],
        "users": [{"name": n, "user": {"token": "t"}} for n, _ in contexts],
        "contexts": [
            {"name": n, "context": {"cluster": n, "user": n, **({"namespace": space} if space else {})}}
            for n, space in contexts
        ],
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


async def server_and_namespace(*arguments):
    login = await log_in(*arguments)
    try:
        return login.cluster.rest._client.configuration.host, login.namespace
    finally:
        await login.cluster.close()


async def test_the_current_context_of_the_file_that_is_named(tmp_path):
    file = kubeconfig(tmp_path / "a", ("one", "shop"), ("two", "crm"), current="two")

    assert await server_and_namespace(file, None, {}) == ("https://two.example.org", "crm")


async def test_another_context_by_name(tmp_path):
    file = kubeconfig(tmp_path / "a", ("one", "shop"), ("two", "crm"), current="two")

    assert await server_and_namespace(file, "one", {}) == ("https://one.example.org", "shop")


async def test_a_context_without_a_namespace_means_default(tmp_path):
    file = kubeconfig(tmp_path / "a", ("one", ""))

    assert (await server_and_namespace(file, None, {}))[1] == "default"


async def test_the_files_of_the_environment_are_merged_and_missing_ones_passed_over(tmp_path):
    files = ":".join(
        [
            str(tmp_path / "none"),
            kubeconfig(tmp_path / "a", ("one", "shop")),
            kubeconfig(tmp_path / "b", ("two", "crm"), current="one"),
        ]
    )

    assert await server_and_namespace(None, "two", {"KUBECONFIG": files}) == (
        "https://two.example.org",
        "crm",
    )


async def test_no_file_no_context_and_no_kubeconfig_at_all_are_said(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("[]")
    for arguments in (
        (str(tmp_path / "none"), None, {}),
        (kubeconfig(tmp_path / "a", ("one", "")), "two", {}),
        (str(broken), None, {}),
    ):
        with pytest.raises(UnavailableError, match="No login to a cluster"):
            await log_in(*arguments)
