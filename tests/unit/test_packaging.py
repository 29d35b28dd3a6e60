"""The distribution asks for what the locked requirements hold, and says one version."""

import re
import tomllib
from pathlib import Path

import godwit

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(name):
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-"))}


def test_the_dependencies_are_those_that_are_locked():
    assert set(PROJECT["dependencies"]) == requirements("runtime.in")
    assert set(PROJECT["optional-dependencies"]["demo"]) == requirements("demo.in")


def test_the_version_is_told_once():
    assert godwit.__version__ == PROJECT["version"]


def test_every_requirement_has_a_hash_and_no_address():
    for name in ("runtime.txt", "demo.txt", "dev.txt"):
        text = (ROOT / "requirements" / name).read_text()
        blocks = re.split(r"\n(?=\S)", text.strip())
        assert len(blocks) > 20
        assert all(
            re.match(r"[a-z0-9.-]+==\S+ (; .* )?\\\n +--hash=sha256:[0-9a-f]{64}", block) for block in blocks
        )
        assert "://" not in text


def test_the_files_agree_on_versions():
    def pins(name):
        return set(re.findall(r"^(\S+==\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    assert pins("runtime.txt") <= pins("demo.txt") <= pins("dev.txt")
