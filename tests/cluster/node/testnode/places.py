"""Where things are: folders, addresses and ports of the test node."""

import hashlib
import os
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
CHECKOUT = SOURCE.parents[2]
MODULES = SOURCE / "modules"
POSTGRES_IMAGE = SOURCE / "postgres"

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "godwit" / "cluster"
IMAGES = CACHE / "images"
WORK = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp") / "godwit-cluster"

NODE = "node1"
BRIDGE = "godwit0"
# The bridge's own address is the node's: pods, kubelet and registry all meet there.
NODE_ADDRESS = "10.88.0.1"
POD_NETWORK = "10.88.0.0/16"
POD_RANGE_START = "10.88.1.2"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
CNI_PLUGINS = Path("/usr/lib/cni")

# Not the usual ports, so that the node stands beside an etcd, a kind cluster or a kubelet's health port.
ETCD_PORT = 12379
ETCD_PEER_PORT = 12380
API_PORT = 16443
CONTROLLER_MANAGER_PORT = 17257
SCHEDULER_PORT = 17259
KUBELET_PORT = 17250
KUBELET_HEALTH_PORT = 17248
PROXY_HEALTH_PORT = 17256
PROXY_METRICS_PORT = 17249
REGISTRY_PORT = 5000
PORTS = {
    "etcd": ("127.0.0.1", ETCD_PORT),
    "etcd (peers)": ("127.0.0.1", ETCD_PEER_PORT),
    "kube-apiserver": ("127.0.0.1", API_PORT),
    "kube-controller-manager": ("127.0.0.1", CONTROLLER_MANAGER_PORT),
    "kube-scheduler": ("127.0.0.1", SCHEDULER_PORT),
    "kubelet": (NODE_ADDRESS, KUBELET_PORT),
    "kubelet (health)": ("127.0.0.1", KUBELET_HEALTH_PORT),
    "kube-proxy (health)": ("127.0.0.1", PROXY_HEALTH_PORT),
    "kube-proxy (metrics)": ("127.0.0.1", PROXY_METRICS_PORT),
    "registry": (NODE_ADDRESS, REGISTRY_PORT),
}

REGISTRY = f"{NODE_ADDRESS}:{REGISTRY_PORT}"
BASE_NAME = "docker.io/library/debian:trixie-slim"
PAUSE_NAME = "localhost/pause:1"
GODWIT_NAME = "localhost/godwit:test"
POSTGRES_NAME = "localhost/postgres:test"


class Failure(Exception):
    """Something a person must know; its text is the whole message."""


def digest_of(*parts: Path | str) -> str:
    """16 hexadecimal digits over strings and files; a folder counts as its files without byte code."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            total.update(b"text\0" + part.encode() + b"\0")
            continue
        files = (
            sorted(p for p in part.rglob("*") if p.is_file() and p.parent.name != "__pycache__")
            if part.is_dir()
            else [part]
        )
        for file in files:
            name = file.relative_to(part) if part.is_dir() else file.name
            total.update(f"file\0{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]
