"""Background processes known by process id and start time, so that a reused id is never taken for ours."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from .places import Failure

POLL = 0.05


class Processes:
    """The processes of one work folder: pids/NAME holds "id starttime", logs/NAME.log what it says."""

    def __init__(self, work: Path, environment: dict[str, str]) -> None:
        self.pids = work / "pids"
        self.logs = work / "logs"
        self.work = work
        self.environment = environment

    def start(self, name: str, *command: str | Path) -> None:
        """Starts a program in a session of its own, and records it."""
        log = self.log(name)
        with log.open("a") as output:
            output.write(f"$ {shlex.join(map(str, command))}\n")
            output.flush()
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=self.work,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        (self.pids / name).write_text(f"{process.pid} {start_time(process.pid)}\n")

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def names(self) -> list[str]:
        """All that were started and not yet stopped, dead ones too."""
        return sorted(p.name for p in self.pids.iterdir()) if self.pids.is_dir() else []

    def pid(self, name: str) -> int | None:
        """The id of this process, if it lives."""
        file = self.pids / name
        recorded = file.read_text().split() if file.exists() else []
        if len(recorded) != 2 or start_time(int(recorded[0])) != recorded[1]:
            return None
        return int(recorded[0])

    def stop(self, names: Iterable[str], seconds: float) -> None:
        """Asks them all to end, ends those that live after these seconds, and waits until all are gone."""
        known = [name for name in names if (self.pids / name).exists()]
        for sign, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 10.0)):
            for pid in filter(None, map(self.pid, known)):
                send(pid, sign)
            deadline = time.monotonic() + patience
            while any(map(self.pid, known)) and time.monotonic() < deadline:
                time.sleep(POLL)
        if stuck := [f"{name} (process {self.pid(name)})" for name in known if self.pid(name)]:
            raise Failure(f"these do not end: {', '.join(stuck)}")
        for name in known:
            (self.pids / name).unlink()

    def wait(self, name: str, what: str, probe: Callable[[], bool], seconds: float) -> None:
        """Polls until probe() holds. A dead process or a passed deadline fails with the end of its log."""
        deadline = time.monotonic() + seconds
        while not probe():
            if not self.pid(name):
                raise Failure(f"{name} ended while waiting until {what}.\n{self.tail(name)}")
            if time.monotonic() > deadline:
                raise Failure(f"{name}: {what} did not come true in {seconds:.0f} s.\n{self.tail(name)}")
            time.sleep(POLL)

    def tail(self, name: str, lines: int = 25) -> str:
        """The end of a log, with its path."""
        log = self.log(name)
        text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else ["(no log)"]
        return "\n".join([f"--- the end of {log}", *(line[:400] for line in text)])


def start_time(pid: int) -> str | None:
    """When a process began: clock ticks since boot, field 22 of proc_pid_stat(5). None when it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A child of this very process that ended stays as a zombie until this one ends too.
    return None if fields[0] in "ZX" else fields[19]


def send(pid: int, sign: signal.Signals) -> None:
    """A signal to a process that may have ended meanwhile."""
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return


def run(
    *command: str | Path,
    check: bool = True,
    input_text: str = "",
    environment: dict[str, str] | None = None,
    timeout: float = 900,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; a failure shows what it said."""
    words = list(map(str, command))
    done = subprocess.run(
        words, input=input_text, env=environment, capture_output=True, text=True, check=False, timeout=timeout
    )
    if check and done.returncode:
        raise Failure(
            f"`{shlex.join(words)[:400]}` failed ({done.returncode}):\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return done
