"""Java libraries for tests, in ~/.cache/godwit: the versions of a pom.xml, each file with its SHA-256.

Maven asks the repository that it is set up for; a file whose hash is not the one in sha256sums is refused.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path

from installed import LEAVE_OUT, MissingToolError, once

_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
_ARCHIVE = "classes.jsa"


def jars(folder: Path) -> Path:
    """The folder with what *folder*'s pom.xml names, and nothing that these need in turn.

    Downloaded once for each content of pom.xml and sha256sums. Raises MissingToolError.
    """
    missing = [name for name in ("java", "mvn") if not shutil.which(name)]
    if missing:
        raise MissingToolError(
            f"These tests need Java >= 17 and Maven; not on the PATH: {', '.join(missing)}. Install them, "
            f"{LEAVE_OUT}"
        )
    sums = folder / "sha256sums"

    def install(made: Path) -> None:
        jars = made / "jars"
        _download(folder / "pom.xml", jars)
        _check(jars, sums)

    return once([folder / "pom.xml", sums], install) / "jars"


def classes(folder: Path, words: tuple[str, ...]) -> Path:
    """What Java reads of the classes that it loads for *words*: a file for -XX:SharedArchiveFile (JEP 350).

    Made once for each content of *folder*'s files and each Java. It is no failure when *words* end in one,
    nor when Java does not take the file: it reads the classes itself then.
    """
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr

    def install(made: Path) -> None:
        command = ["java", f"-XX:ArchiveClassesAtExit={made / _ARCHIVE}", *words]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if not (made / _ARCHIVE).exists():
            raise MissingToolError(f"{' '.join(command)} left no archive: {done.stdout}{done.stderr}")

    files = [folder / "pom.xml", folder / "sha256sums"]
    return once(files, install, variant="\n".join([java, *words])) / _ARCHIVE


def _download(pom: Path, target: Path) -> None:
    done = subprocess.run(
        ["mvn", "--quiet", "--batch-mode", f"--file={pom}", _COPY, f"-DoutputDirectory={target}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MissingToolError(f"Maven could not bring what {pom} names: {done.stdout.strip()[-1500:]}")


def _check(folder: Path, sums: Path) -> None:
    wanted = dict(line.split()[::-1] for line in sums.read_text().splitlines())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    if found != wanted:
        wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise MissingToolError(f"Maven brought other files than {sums} says: {', '.join(wrong)}")
