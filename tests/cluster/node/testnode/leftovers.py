"""What the node has on the machine beside its processes: bridge, containers, mounts, cgroups, rules."""

import json
import os
import re
import signal
import time
from pathlib import Path

from . import places as at
from .places import Failure
from .processes import POLL, run, send

_CGROUPS = Path("/sys/fs/cgroup")
# Chains of kube-proxy, of the kubelet (KUBE-KUBELET-CANARY, KUBE-FIREWALL) and of CNI plugins.
_CHAIN = re.compile(r"^:((?:KUBE|CNI)-\S+) ", re.MULTILINE)
_FORWARD = ("FORWARD", "-m", "comment", "--comment", "godwit test node")


def make_network(work: Path) -> None:
    """The bridge with the node's address, forwarding, and a root that pods' mounts spread from."""
    remove_bridge()
    run("ip", "link", "add", at.BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{at.NODE_ADDRESS}/16", "dev", at.BRIDGE)
    run("ip", "link", "set", at.BRIDGE, "up")
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    (work / "ip_forward.before").write_text(forwarding.read_text())
    forwarding.write_text("1")
    for way in ("-i", "-o"):  # a container engine on this machine may have set FORWARD to DROP
        run("iptables", "--wait", "-I", *_FORWARD, way, at.BRIDGE, "-j", "ACCEPT")
    run("mount", "--make-rshared", "/")


def end_containers(work: Path) -> None:
    """Ends this node's containers and their shims, which are known by naming the node's socket."""
    sockets = _shim_sockets(work)
    deadline = time.monotonic() + 10
    while shims := _shims(work):
        for shim in shims:
            for child in _children(shim):
                send(child, signal.SIGKILL)
            send(shim, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise Failure(f"container shims do not end: {shims}")
        time.sleep(POLL)
    for socket in sockets:
        socket.unlink(missing_ok=True)


def remove(work: Path, programs: Path) -> None:
    """Unmounts what is under the work folder, and removes cgroups, rules and bridge."""
    deadline = time.monotonic() + 10
    while mounts := _mounts(work):
        for place in reversed(mounts):
            run("umount", "--lazy", place, check=False)
        if time.monotonic() > deadline:
            raise Failure(f"still mounted: {mounts}")
    _remove_cgroups()
    if (programs / "kube-proxy").exists():
        run(programs / "kube-proxy", "--cleanup", "--proxy-mode=iptables", check=False, timeout=60)
    _remove_rules()
    remove_bridge()
    before = work / "ip_forward.before"
    if before.exists():
        Path("/proc/sys/net/ipv4/ip_forward").write_text(before.read_text())
    for link in Path("/var/log/containers").glob("*"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{work}/"):
            link.unlink()


def remove_bridge() -> None:
    if run("ip", "link", "show", at.BRIDGE, check=False).returncode == 0:
        run("ip", "link", "delete", at.BRIDGE)


def _shims(work: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"containerd-shim-runc-v2") and f"{work}/containerd.sock".encode() in words:
            found.append(int(process.name))
    return found


def _shim_sockets(work: Path) -> list[Path]:
    """Where the shims listen: in a folder of the whole machine, so each is read from its bundle."""
    found = []
    for bundle in work.glob("containerd-state/io.containerd.runtime.v2.task/*/*/bootstrap.json"):
        try:
            address = str(json.loads(bundle.read_text())["address"])
        except (OSError, ValueError, KeyError):
            continue  # a container that was just made or removed
        found.append(Path(address.removeprefix("unix://")))
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return children


def _mounts(work: Path) -> list[str]:
    r"""Mount points under the folder, outer ones first (/proc/self/mounts writes a space as \040)."""
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [place.replace("\\040", " ") for place in places if place.startswith(f"{work}/")]


def _remove_cgroups() -> None:
    """The kubelet's cgroups, inner ones first; only empty ones can be removed (cgroups(7))."""
    for top in [_CGROUPS / "kubepods", *_CGROUPS.glob("*/kubepods")]:
        for folder, _, _ in os.walk(top, topdown=False):
            deadline = time.monotonic() + 5
            while True:
                try:
                    Path(folder).rmdir()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(POLL)


def _remove_rules() -> None:
    """Our forwarding rules, and what is left of the chains: first every jump to them, then the chains."""
    for way in ("-i", "-o"):
        while (
            run("iptables", "--wait", "-D", *_FORWARD, way, at.BRIDGE, "-j", "ACCEPT", check=False).returncode
            == 0
        ):
            pass
    for command in ("iptables", "ip6tables"):
        for table in ("filter", "nat", "mangle"):
            saved = run(f"{command}-save", "--table", table, check=False)
            chains = set(_CHAIN.findall(saved.stdout))
            if not chains:
                continue
            kept = [
                line
                for line in saved.stdout.splitlines()
                if not line.startswith("#")
                and not any(re.search(rf"[ :]{re.escape(c)}( |$)", line) for c in chains)
            ]
            run(f"{command}-restore", "--wait", "--table", table, input_text="\n".join([*kept, ""]))
