"""A person's login: which file, which context, which namespace, as kubectl chooses them."""

import pytest
import yaml

from godwit.cluster.kubeconfig import log_in
from godwit.cluster.port import UnavailableError
from godwit.cluster.rest import Rest


def kubeconfig(path, *contexts, current=None, authority=None):
    """A kubeconfig with contexts (name, namespace), each with a cluster of its own."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": current or contexts[0][0],
        "clusters": [{"name": n, "cluster": _cluster(n, authority)} for n, _ in contexts],
        "users": [{"name": n, "user": {"token": "t"}} for n, _ in contexts],
        "contexts": [
            {"name": n, "context": {"cluster": n, "user": n, **({"namespace": space} if space else {})}}
            for n, space in contexts
        ],
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


def _cluster(name, authority):
    more = {} if authority is None else {"certificate-authority-data": authority}
    return {"server": f"https://{name}.example.org", **more}


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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "is no kubeconfig", id="nothing"),
        pytest.param(b"- hunter2", "is no kubeconfig", id="a list"),
        pytest.param(b"token: [hunter2", "is no kubeconfig", id="no YAML"),
        pytest.param(b"\xff\xfe hunter2", "is no kubeconfig", id="no text"),
        pytest.param(b"token: hunter2", "current-context", id="no context"),
    ],
)
async def test_a_file_that_is_no_kubeconfig_is_refused_and_nothing_of_it_shown(tmp_path, content, says):
    file = tmp_path / "config"
    file.write_bytes(content)
    for log_in_by in (log_in, Rest.connect):
        with pytest.raises(UnavailableError, match=says) as raised:
            await log_in_by(str(file))
        assert "hunter2" not in str(raised.value)


async def test_a_certificate_that_is_none_is_no_login(tmp_path):
    file = kubeconfig(tmp_path / "a", ("one", ""), authority="AAAA")
    for log_in_by in (log_in, Rest.connect):
        with pytest.raises(UnavailableError, match="No login to a cluster by"):
            await log_in_by(file)


async def test_the_operator_is_told_of_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UnavailableError, match=f"there is no kubeconfig {tmp_path}/none"):
        await Rest.connect(str(tmp_path / "none"))


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
