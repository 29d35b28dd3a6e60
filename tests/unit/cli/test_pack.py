"""`godwit pack`: the manifests hold the folder, whatever it is like."""

import base64
import random

import yaml
from typer.testing import CliRunner

from godwit.cli.main import app
from godwit.cli.pack import manifests
from godwit.cli.samples import sample_migrations


def packed(folder, *more):
    done = CliRunner().invoke(app, ["pack", str(folder), "--name=shop", *more])
    assert done.exit_code == 0, done.output
    return done.output, list(yaml.safe_load_all(done.output))


def migration(folder, name, sql):
    (folder / name).mkdir(parents=True)
    (folder / name / "migration.sql").write_text(sql)


def test_the_sample_becomes_one_readable_config_map():
    text, (manifest,) = packed(sample_migrations(), "-n", "bookshop")

    assert manifest["metadata"] == {"name": "shop", "namespace": "bookshop"}
    names = [p.name for p in sorted(sample_migrations().iterdir()) if p.is_dir()]
    expected = {f"{name}{end}" for name in names for end in (".sql", ".down.sql")} | {"migration_lock.toml"}
    assert set(manifest["data"]) == expected
    for name in names:
        source = (sample_migrations() / name / "migration.sql").read_text()
        assert manifest["data"][f"{name}.sql"] == source
    assert '\n    CREATE TABLE "author" (\n' in text, "scripts are blocks"


def test_the_same_folder_gives_the_same_bytes():
    assert packed(sample_migrations())[0] == packed(sample_migrations())[0]


def test_names_that_are_no_keys_go_into_an_archive(tmp_path):
    migration(tmp_path, "20260101 with spaces", "SELECT 1;")

    _, (manifest,) = packed(tmp_path)

    assert [key.endswith(".tar.gz") for key in manifest["binaryData"]] == [True]


def test_what_is_too_large_for_one_goes_into_several_numbered_ones(tmp_path):
    # Random, so that compression does not make it fit.
    noise = random.Random(7)
    for number in range(3):
        text = base64.b64encode(noise.randbytes(350_000)).decode()
        migration(tmp_path, f"2026010{number}_big", f"-- {text}\nSELECT 1;")

    made = manifests(tmp_path, "shop")

    assert [m["metadata"]["name"] for m in made] == ["shop", "shop-2"]
    assert all(len(str(m)) < 1_300_000 for m in made)


def test_a_folder_that_is_none_is_refused(tmp_path):
    (tmp_path / "notes").mkdir()
    done = CliRunner().invoke(app, ["pack", str(tmp_path), "--name=shop"])

    assert done.exit_code == 1
    assert (
        done.output == f"{tmp_path}: The folder holds no migration: no file in it ends in .sql or .tar.gz.\n"
    )


def test_a_folder_that_is_not_there_is_named(tmp_path):
    done = CliRunner().invoke(app, ["pack", str(tmp_path / "none"), "--name=shop"])

    assert done.exit_code == 1
    assert done.output == f"{tmp_path}/none: The source cannot be read: No such file or directory.\n"
