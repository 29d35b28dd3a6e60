"""The container images: Debian's base, the project's own, and a PostgreSQL to test against."""

import os
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

from . import places as at
from . import programs
from .places import Failure, digest_of
from .processes import run

# What Docker's image debian:trixie-slim is made of, from the same packages; like it, without these folders.
_SLIM = [
    f"--dpkgopt=path-{way}=/usr/share/{folder}"
    for way, folders in (("exclude", "doc/* info/* lintian/* locale/* man/*"), ("include", "doc/*/copyright"))
    for folder in folders.split()
]
_BASE = ("mmdebstrap", "--variant=minbase", *_SLIM, "--include=ca-certificates", "trixie")
_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def held() -> AbstractContextManager[None]:
    """While this is held, nobody else builds images or removes archives of earlier ones."""
    return programs.locked(at.CACHE / "images.lock")


def build() -> dict[str, Path]:
    """Builds what changed (under held()); gives each image's archive, named by its content, by its name."""
    at.IMAGES.mkdir(parents=True, exist_ok=True)
    base = _base()
    return {
        at.POSTGRES_NAME: _built(at.POSTGRES_NAME, at.POSTGRES_IMAGE, base, [at.POSTGRES_IMAGE]),
        at.GODWIT_NAME: _built(at.GODWIT_NAME, at.CHECKOUT, base, _sent(at.CHECKOUT)),
    }


def built_last() -> list[Path]:
    """The archives that `build` gave last (read under held()), for a node that starts later."""
    return [link.resolve() for link in sorted(at.IMAGES.glob("*.current")) if link.exists()]


def _base() -> Path:
    """A root file system as a tar file."""
    target = at.IMAGES / f"base-{digest_of(*_BASE)}.tar"
    if not target.exists():
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=at.IMAGES) as fresh:
            run(*_BASE, f"{fresh}/base.tar", environment={**os.environ, "TMPDIR": "/tmp"})
            for old in at.IMAGES.glob("base-*.tar"):
                old.unlink()
            Path(fresh, "base.tar").rename(target)
        _said("base", began)
    return target


def _sent(context: Path) -> list[Path]:
    """What the context's .dockerignore lets through (its lines with "!"), with it and the Dockerfile."""
    ignore = context / ".dockerignore"
    through = [line[1:].strip() for line in ignore.read_text().splitlines() if line.startswith("!")]
    return [ignore, context / "Dockerfile", *(context / path for path in through)]


def _built(name: str, context: Path, base: Path, sources: list[Path]) -> Path:
    """An archive of the image of a folder with a Dockerfile; buildah is asked when the sources changed."""
    short = name.partition("/")[2].partition(":")[0]
    archive = at.IMAGES / f"{short}-{digest_of(base.name, *sources)}.tar"
    if archive.exists():
        return _current(short, archive)
    began = time.monotonic()
    _import_base(base)
    with tempfile.TemporaryDirectory(dir=at.IMAGES) as fresh:
        _buildah(
            "build", "--isolation=chroot", "--pull-never", "--layers", "--format=oci",
            *_certificates(Path(fresh)), f"--tag={name}", f"--file={context / 'Dockerfile'}", context,
        )  # fmt: skip
        # Of buildah's archives this kind has uncompressed layers, which takes a fifth of the time.
        _buildah("push", name, f"docker-archive:{fresh}/image.tar:{name}")
        Path(fresh, "image.tar").rename(archive)
    _said(short, began)
    return _current(short, archive)


def _current(short: str, archive: Path) -> Path:
    """Notes it for built_last(), and removes its predecessors."""
    link = at.IMAGES / f"{short}.current"
    link.unlink(missing_ok=True)
    link.symlink_to(archive.name)
    for old in at.IMAGES.glob(f"{short}-*.tar"):
        if old != archive:
            old.unlink()
    return archive


def _import_base(base: Path) -> None:
    """Gives buildah the base image under the name that Dockerfiles use: they are built as they are."""
    mark = f"godwit.dev/base={base.stem}"
    have = _buildah(
        "images", "--quiet", "--filter", f"label={mark}", "--filter", f"reference={at.BASE_NAME}", check=False
    )
    if have.strip():
        return
    container = _buildah("from", "scratch").strip()
    try:
        _buildah("add", "--quiet", container, base)
        _buildah("config", "--cmd", "bash", "--label", mark, container)
        _buildah("commit", "--quiet", container, at.BASE_NAME)
    finally:
        _buildah("rm", container)


def _certificates(fresh: Path) -> list[str]:
    """Build secrets (not in the image) by which pip trusts the host's own certificate authorities."""
    if not any(Path("/usr/local/share/ca-certificates").glob("**/*.crt")):
        return []
    configuration = fresh / "pip.conf"
    configuration.write_text("[global]\ncert = /run/secrets/ca-bundle\n")
    return [f"--secret=id=pip-conf,src={configuration}", f"--secret=id=ca-bundle,src={_BUNDLE}"]


def _buildah(*words: str | Path, check: bool = True) -> str:
    """Runs buildah with a storage of its own in the cache, so that the user's images stay as they are."""
    storage = (
        "--root",
        at.CACHE / "storage",
        "--runroot",
        at.CACHE / "storage-run",
        "--storage-driver",
        "overlay",
    )
    try:
        return run("buildah", *storage, *words, check=check).stdout
    except Failure as failure:
        raise Failure(f"{failure}\n(buildah's storage is in {at.CACHE / 'storage'})") from failure


def _said(what: str, began: float) -> None:
    print(f"image {what}: {time.monotonic() - began:.1f} s", file=sys.stderr)
