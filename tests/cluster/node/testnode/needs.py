"""What the machine must have. Missing Debian packages are installed; the rest is asked for by name."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .places import CNI_PLUGINS, Failure

MINIMUM_GO = (1, 26)
# A file that shows that the Debian package is there -> the package.
PACKAGES = {
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "openssl": "openssl",
    str(CNI_PLUGINS / "bridge"): "containernetworking-plugins",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
}


def go() -> str:
    """The Go command, at least 1.26 (what the modules in modules/ ask for)."""
    found = shutil.which("go", path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/go/bin")
    wanted = ".".join(map(str, MINIMUM_GO))
    if not found:
        raise Failure(
            f"the test cluster's programs are built from source: Go >= {wanted} is missing (no `go` in PATH)"
        )
    said = subprocess.run(
        [found, "env", "GOVERSION"], capture_output=True, text=True, check=False
    ).stdout.strip()
    version = re.match(r"go(\d+)\.(\d+)", said)
    if not version or (int(version[1]), int(version[2])) < MINIMUM_GO:
        raise Failure(f"Go >= {wanted} is needed, but {found} is {said or 'of no known version'}")
    return found


def linux_root() -> None:
    """Refuses any system but Linux, and any user but root: a kubelet mounts and makes namespaces."""
    missing = []
    if platform.system() != "Linux":
        missing.append(f"Linux (this is {platform.system()})")
    elif os.geteuid() != 0:
        missing.append(f"root (you are user id {os.geteuid()}); try sudo")
    if missing:
        raise Failure(
            f"the test cluster needs {' and '.join(missing)}. "
            "Another Kubernetes can be handed to the tests by GODWIT_TEST_KUBECONFIG."
        )


def packages() -> None:
    """Installs the missing Debian packages. No service is started: none of them brings one."""
    missing = sorted(
        {package for file, package in PACKAGES.items() if not shutil.which(file) and not Path(file).exists()}
    )
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Failure(
            f"these packages are missing, and there is no apt-get to install them with: {' '.join(missing)} "
            "(the names are Debian's; the system must be Debian or Ubuntu)"
        )
    print(f"installing Debian packages: {' '.join(missing)}", file=sys.stderr)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Failure(f"apt-get {command[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
