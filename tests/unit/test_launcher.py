"""A step that is forked is what a new Python would be: what tests find with it is so for users."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launcher import Launcher, Step
from waiting import until

from godwit.contract.request import DeleteBackupInput, ObjectRef, StepRequest

REQUEST = StepRequest(
    object=ObjectRef(kind="DatabaseBackup", namespace="shop", name="nightly", uid="u1"),
    step="delete",
    verbs=(DeleteBackupInput(location="shop/none.dump"),),
)
KEPT = ("SigBlk", "SigIgn", "SigCgt", "Threads", "Umask")


class Starts:
    """Ways to start a step that hangs after its first words."""

    def __init__(self, folder: Path, launcher: Launcher) -> None:
        self.folder = folder
        self.launcher = launcher
        (folder / "request.json").write_text(json.dumps(REQUEST.to_json()))

    def environ(self, fault: str) -> dict[str, str]:
        return os.environ | {
            "GODWIT_REQUEST_FILE": str(self.folder / "request.json"),
            "GODWIT_OUTCOME_FILE": str(self.folder / "outcome.json"),
            "GODWIT_STORE_DIR": str(self.folder),
            "GODWIT_SCRATCH_DIR": str(self.folder),
            "GODWIT_FAULT": fault,
            "GODWIT_FAULT_INJECTION": "1",
        }

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def new(self, fault: str) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "godwit.runner"],
                env=self.environ(fault),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def forked(self, fault: str) -> Step:
        with self.log.open("wb") as log:
            return self.launcher.start(self.environ(fault), stdout=log, stderr=log, folder=self.folder)

    def hanging(self, how: str) -> subprocess.Popen[bytes] | Step:
        """One that has begun its step, with its handlers of signals and its clock."""
        process: subprocess.Popen[bytes] | Step = getattr(self, how)("runner.start:hang")
        until(lambda: "step.started" in self.log.read_text(), "the step begins")
        # While a thread is made, all signals are blocked.
        quiet = {"Threads": "2", "SigBlk": status(os.getpid())["SigBlk"]}
        until(lambda: quiet.items() <= status(process.pid).items(), "its clock runs")
        return process


@pytest.fixture
def starts(tmp_path, launcher):
    return Starts(tmp_path, launcher)


def status(pid: int) -> dict[str, str]:
    """What the kernel says of a process's signals and threads."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines) if name in KEPT}


def seen(pid: int) -> dict[str, object]:
    """All that the kernel says of a process."""
    place = Path(f"/proc/{pid}")
    return {
        "files": {file.name: file.readlink() for file in (place / "fd").iterdir()},
        "folder": (place / "cwd").readlink(),
        "group": os.getpgid(pid),
        "session": os.getsid(pid),
        **status(pid),
    }


def test_the_kernel_sees_the_same_process(starts):
    found = {}
    for how in ("new", "forked"):
        process = starts.hanging(how)
        found[how] = seen(process.pid)
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    assert found["forked"] == found["new"]


@pytest.mark.parametrize(
    ("fault", "code", "written"),
    [("", 0, True), ("runner.start:kill", -9, False), ("runner.before_outcome:lose", 1, False)],
)
def test_it_ends_as_it_would_and_says_the_same(starts, fault, code, written):
    said = []
    for how in ("new", "forked"):
        (starts.folder / "outcome.json").unlink(missing_ok=True)
        assert getattr(starts, how)(fault).wait(30) == code
        assert (starts.folder / "outcome.json").exists() is written
        said.append([json.loads(line)["event"] for line in starts.log.read_text().splitlines()])
    assert said[0] == said[1]


def test_told_to_end_it_hears_it(starts):
    process = starts.forked("runner.start:delay:1")
    until(lambda: "step.started" in starts.log.read_text(), "the step begins")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert "step.cancelled" in starts.log.read_text()


def test_its_id_is_its_own_until_its_end_was_heard(starts):
    process = starts.forked("runner.start:kill")
    until(lambda: "Z" in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2], "it has ended")
    process.send_signal(signal.SIGTERM)
    assert process.poll() == -signal.SIGKILL
    until(lambda: not Path(f"/proc/{process.pid}").exists(), "it is gone")


async def test_in_a_session_of_its_own_for_a_cluster(starts, launcher, tmp_path):
    from godwit.cluster.local import RUNNER

    with starts.log.open("wb") as log:
        step = await launcher.start_local(RUNNER, starts.environ("runner.start:hang"), tmp_path, log)
    assert os.getsid(step.pid) == os.getpgid(step.pid) == step.pid
    os.killpg(step.pid, signal.SIGKILL)
    assert await step.wait() == step.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        step.send_signal(signal.SIGTERM)


async def test_a_value_that_no_process_can_be_given_is_refused(starts, launcher, tmp_path):
    from godwit.cluster.local import RUNNER

    with starts.log.open("wb") as log, pytest.raises(ValueError, match="embedded null byte"):
        await launcher.start_local(RUNNER, {"GODWIT_DATABASE_PASSWORD": "a\0b"}, tmp_path, log)
