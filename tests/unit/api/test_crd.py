"""The definitions, their columns, and the files that are made of them."""

from pathlib import Path

import pytest
import yaml

from godwit.api.common import Resource
from godwit.api.crd import definition, files, main
from godwit.api.kinds import KINDS
from godwit.contract.reasons import Reason

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_definition_names_its_kind_and_has_a_status_subresource(kind: type[Resource]):
    made = definition(kind)
    assert made["metadata"]["name"] == f"{kind.PLURAL}.godwit.dev"
    assert made["spec"]["scope"] == "Namespaced"
    assert made["spec"]["names"] == {
        "kind": kind.KIND,
        "listKind": f"{kind.KIND}List",
        "plural": kind.PLURAL,
        "singular": kind.KIND.lower(),
        "shortNames": [kind.SHORT],
        "categories": ["godwit"],
    }
    (version,) = made["spec"]["versions"]
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert version["subresources"] == {"status": {}}


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("PostgresDatabase", "ENVIRONMENT VERSION READY REASON AGE"),
        ("DatabaseMigration", "DATABASE CURRENT TARGET PENDING READY REASON AGE"),
        ("MigrationRun", "MIGRATION TARGET OUTCOME REASON AGE"),
        ("DatabaseBackup", "DATABASE TYPE SIZE VERIFIED READY AGE"),
        ("DatabaseRestore", "DATABASE BACKUP READY REASON AGE"),
    ],
)
def test_kubectl_get_shows_what_a_person_asks_first(kind: str, columns: str):
    (version,) = definition(KINDS[kind])["spec"]["versions"]
    shown = [c["name"] for c in version["additionalPrinterColumns"] if not c.get("priority")]
    assert " ".join(shown) == columns


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_column_shows_a_field_of_the_schema(kind: type[Resource]):
    (version,) = definition(kind)["spec"]["versions"]
    for column in version["additionalPrinterColumns"]:
        node = version["schema"]["openAPIV3Schema"]
        path = column["jsonPath"].removeprefix(".").partition("[")[0].split(".")
        if path[0] == "metadata":
            continue
        for name in path:
            assert name in node["properties"], column
            node = node["properties"][name]
        assert node["type"] == ("array" if "[" in column["jsonPath"] else column["type"])


def test_the_committed_files_are_current(capsys: pytest.CaptureFixture[str]):
    status = main(["--check", str(ROOT / "crds"), "--docs", str(ROOT / "docs")])
    assert (status, capsys.readouterr().err) == (0, "")


def test_check_names_the_file_that_is_old_missing_or_of_no_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    crds, docs = tmp_path / "crds", tmp_path / "docs"
    arguments = [str(crds), "--docs", str(docs)]
    assert main(["--write", *arguments]) == 0
    assert main(["--check", *arguments]) == 0
    (crds / "databasebackups.yaml").write_text("old")
    (crds / "migrationruns.yaml").unlink()
    (crds / "strangers.yaml").write_text("kind: Stranger")
    assert main(["--check", *arguments]) == 1
    said = capsys.readouterr().err
    assert [line.split(" ")[0].rpartition("/")[2] for line in said.splitlines()] == [
        "migrationruns.yaml",
        "databasebackups.yaml",
        "strangers.yaml",
    ]


def test_the_yaml_reads_back_as_the_definition_without_anchors(tmp_path: Path):
    made = files(tmp_path, tmp_path)
    for kind in KINDS.values():
        text = made[tmp_path / f"{kind.PLURAL}.yaml"]
        assert yaml.safe_load(text) == definition(kind)
        assert "&id" not in text


def test_the_reference_has_every_kind_and_the_troubleshooting_page_every_reason(tmp_path: Path):
    made = files(tmp_path, tmp_path)
    assert all(f"## {kind.KIND} (`{kind.SHORT}`)" in made[tmp_path / "api.md"] for kind in KINDS.values())
    page = made[tmp_path / "troubleshooting.md"]
    assert all(f"`{reason}` | {reason.advice.meaning}" in page for reason in Reason)
