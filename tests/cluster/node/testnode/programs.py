"""The programs of the node, built from the Go modules in modules/ into the cache, once for each state."""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import needs
from .places import CACHE, MODULES, Failure, digest_of

_KUBERNETES = ("1", "36", "3")
_VERSION = "k8s.io/component-base/version"
_FLAGS = ("-mod=readonly", "-trimpath")


@dataclass(frozen=True)
class Module:
    """A folder in modules/, the packages of it that are programs, and what `go build` is told."""

    name: str
    packages: tuple[str, ...]
    ldflags: str = ""
    tags: str = ""


# The order is the order of building: the linker needs about 3 GiB, so one after the other.
BUILD = (
    Module("pause", ("godwit.dev/tests/cluster/pause",)),
    Module("registry", ("godwit.dev/tests/cluster/registry",)),
    Module("etcd", ("go.etcd.io/etcd/server/v3",)),
    Module(
        "containerd",
        tuple(
            f"github.com/containerd/containerd/v2/cmd/{p}"
            for p in ("containerd", "containerd-shim-runc-v2", "ctr")
        ),
        ldflags="-X github.com/containerd/containerd/v2/version.Version=v2.2.1",
        tags="no_btrfs no_devmapper no_zfs",
    ),
    Module(
        "helm", ("helm.sh/helm/v4/cmd/helm",), ldflags="-X helm.sh/helm/v4/internal/version.version=v4.3.1"
    ),
    Module(
        "kubernetes",
        tuple(
            f"k8s.io/kubernetes/cmd/{p}"
            for p in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-proxy",
                "kube-scheduler",
                "kubectl",
                "kubelet",
            )
        ),
        ldflags=f"-X {_VERSION}.gitVersion=v{'.'.join(_KUBERNETES)}"
        f" -X {_VERSION}.gitMajor={_KUBERNETES[0]} -X {_VERSION}.gitMinor={_KUBERNETES[1]}",
    ),
)


def folder() -> Path:
    """Where the built programs are, or will be."""
    return CACHE / digest_of(MODULES, repr((BUILD, _FLAGS)), platform.machine()) / "bin"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One holder of this lock file at a time; the kernel lets go of it when the holder dies."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that holds {file}", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build() -> Path:
    """Builds what is not in the cache yet; gives the folder. A killed build leaves nothing half written."""
    target = folder()
    if _missing(target):
        command = needs.go()
        with locked(CACHE / "build.lock"):
            for module in _missing(target):
                _build(command, module, target)
    return target


def _missing(target: Path) -> list[Module]:
    return [m for m in BUILD if not all((target / _program(package)).exists() for package in m.packages)]


def _program(package: str) -> str:
    """A program's name: the last part of its package's path, but etcd's main package is called server/v3."""
    return "etcd" if package.startswith("go.etcd.io/") else package.rpartition("/")[2]


def _build(command: str, module: Module, target: Path) -> None:
    print(f"building {module.name}: {' '.join(map(_program, module.packages))}", file=sys.stderr)
    began = time.monotonic()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{module.name}-") as fresh:
        done = subprocess.run(
            [command, "build", *_FLAGS, "-tags", module.tags]
            + ["-ldflags", f"-s -w {module.ldflags}", "-o", f"{fresh}/", *module.packages],
            cwd=MODULES / module.name,
            env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            free = shutil.disk_usage(target).free // 2**30
            raise Failure(f"building {module.name} failed ({free} GiB of disk free):\n{done.stderr[-3000:]}")
        for built in Path(fresh).iterdir():
            built.rename(target / ("etcd" if module.name == "etcd" else built.name))
    print(f"built {module.name} in {time.monotonic() - began:.0f} s", file=sys.stderr)
