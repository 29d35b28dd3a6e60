"""Starting and ending the node: etcd, control plane, containerd, kubelet, registry, in one work folder."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import configuration, credentials, images, leftovers, needs, oci, programs, store
from . import places as at
from .places import Failure
from .processes import Processes, run

_MARK = ".godwit-cluster"
# What the node is when every process has started: written last, read first.
_COMPLETE = "complete"
_LOCAL = f"127.0.0.1,localhost,{at.POD_NETWORK},{at.SERVICE_NETWORK}"


class Node:
    """The node of one work folder. Only one can be up on a machine: bridge, ports and iptables are shared."""

    def __init__(self, work: Path) -> None:
        self.work = work.resolve()
        # Unix socket paths end at 107 bytes (unix(7)); the kubelet's are the longest in here.
        if len(str(self.work)) > 60:
            raise Failure(
                f"{self.work} is too long a path for sockets (60 bytes at most); choose another by --dir"
            )
        # As this node was started with: the checkout may have moved on to other programs meanwhile.
        self.programs = self.work / "bin"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("KUBE")}
        environment |= {"NO_PROXY": _LOCAL, "no_proxy": _LOCAL}
        # Go looks for garbage so often that it costs the API server a fifth of its time. Memory is what we have.
        environment |= {"GOGC": "400", "GOMEMLIMIT": "1GiB"}
        environment["PATH"] = f"{self.programs}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        self.processes = Processes(self.work, environment)
        self.kubeconfig = self.work / "admin.kubeconfig"
        self.lock = self.work.with_name(f"{self.work.name}.lock")

    def is_up(self) -> bool:
        """Every process that `up` started lives."""
        names = self.processes.names()
        return (self.work / _COMPLETE).exists() and bool(names) and all(self.processes.pid(n) for n in names)

    def up(self) -> Path:
        """Starts the node unless it is up; gives the administrator's kubeconfig."""
        needs.linux_root()
        needs.packages()
        built = programs.build()
        with programs.locked(self.lock):
            if self.is_up():
                print(f"already up in {self.work}", file=sys.stderr)
                return self.kubeconfig
            self._down()
            self._refuse_strangers()
            began = time.monotonic()
            try:
                self._start(built)
            except BaseException:
                print("bringing down what was started; the logs stay", file=sys.stderr)
                self._down()
                raise
            print(f"up in {time.monotonic() - began:.1f} s: {self.kubeconfig}", file=sys.stderr)
        return self.kubeconfig

    def down(self) -> None:
        """Ends what `up` recorded and removes what the node made; its logs stay until the next `up`."""
        needs.linux_root()
        with programs.locked(self.lock):
            self._down()

    def ctr(self, *words: str | Path) -> str:
        """Runs the command line of containerd, in the namespace of Kubernetes."""
        command = (self.programs / "ctr", "--address", self.work / "containerd.sock", "--namespace", "k8s.io")
        return run(*command, *words, environment=self.processes.environment).stdout

    def import_image(self, archive: Path) -> None:
        """Makes an image archive's images known to the kubelet, once: an archive's name tells its content."""
        if not store.has(archive):
            self.ctr("images", "import", "--local", archive)
            store.note(archive)

    def kubectl(self, *words: str, input_text: str = "") -> subprocess.CompletedProcess[str]:
        command: tuple[str | Path, ...] = (
            self.programs / "kubectl",
            f"--kubeconfig={self.kubeconfig}",
            *words,
        )
        return run(*command, check=False, input_text=input_text, environment=self.processes.environment)

    def _refuse_strangers(self) -> None:
        """Another kubelet or kube-proxy in this network namespace would fight ours; ports must be free."""
        ours = Path("/proc/self/ns/net").readlink()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                name = (process / "comm").read_text().strip()
                if name in ("kubelet", "kube-proxy") and (process / "ns/net").readlink() == ours:
                    raise Failure(
                        f"{name} already runs on this machine (process {process.name}). "
                        "Bring that node down, or hand its kubeconfig to the tests by GODWIT_TEST_KUBECONFIG."
                    )
            except OSError:
                continue  # it ended while we looked
        for name, (_, port) in at.PORTS.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("", port))
                except OSError:
                    raise Failure(f"port {port} is in use; {name} needs it") from None

    def _start(self, built: Path) -> None:
        work, processes = self.work, self.processes
        if work.exists() and not (work / _MARK).exists() and any(work.iterdir()):
            raise Failure(f"{work} is not empty and not a folder of this program; choose another by --dir")
        shutil.rmtree(work, ignore_errors=True)
        for folder in ("logs", "pids", "cni", f"registries/{at.REGISTRY}", "volumes"):
            (work / folder).mkdir(parents=True)
        (work / _MARK).touch()
        (work / "bin").symlink_to(built)
        command = configuration.commands(work, built)
        (work / "containerd.toml").write_text(configuration.containerd(work))
        (work / "registries" / at.REGISTRY / "hosts.toml").write_text(configuration.registry_hosts())
        (work / "registry.json").write_text(configuration.registry(work))
        (work / "cni" / "10-bridge.conflist").write_text(configuration.network(work))
        (work / "kubelet.json").write_text(configuration.kubelet(work))

        store.attach(work)
        leftovers.make_network(work)
        for name in ("etcd", "containerd", "registry"):
            processes.start(name, *command[name])
        credentials.make(work)
        processes.start("kube-apiserver", *command["kube-apiserver"])
        processes.wait("containerd", "its socket answers", self._containerd_answers, 30)
        self._import_pause(built)
        with ThreadPoolExecutor() as beside:
            imported = beside.submit(self._import_built)
            processes.wait("kube-apiserver", "it is ready", self._api_is_ready, 60)
            for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"):
                processes.start(name, *command[name])
            processes.wait("registry", "it answers", lambda: _answers(f"http://{at.REGISTRY}/v2/"), 30)
            processes.wait("kube-proxy", "its rules are written", self._proxy_is_ready, 60)
            processes.wait("kubelet", "the node is Ready", self._node_is_ready, 90)
            self._wait_for_default_account()
            self._make_volumes()
            imported.result()
        (work / _COMPLETE).touch()

    def _import_pause(self, built: Path) -> None:
        folder = self.work / "pause"
        folder.mkdir()
        shutil.copy2(built / "pause", folder / "pause")
        image = oci.of_folder(folder, ["/pause"])
        archive = self.work / f"pause-{image.digest.rpartition(':')[2][:16]}.tar"
        oci.archive(image, at.PAUSE_NAME, archive)
        self.import_image(archive)

    def _import_built(self) -> None:
        with images.held():
            for archive in images.built_last():
                self.import_image(archive)

    def _make_volumes(self) -> None:
        """Local volumes for PersistentVolumeClaims: a node of one machine has no provisioner."""
        manifests: list[dict[str, object]] = [
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": "local",
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            }
        ]
        this_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [at.NODE]}
        for number in range(1, 21):
            folder = self.work / "volumes" / f"{number:02}"
            folder.mkdir()
            folder.chmod(0o2777)  # whatever uid a pod has
            manifests.append(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": f"local-{number:02}"},
                    "spec": {
                        "capacity": {"storage": "10Gi"},
                        "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                        "storageClassName": "local",
                        "local": {"path": str(folder)},
                        "nodeAffinity": {
                            "required": {"nodeSelectorTerms": [{"matchExpressions": [this_node]}]}
                        },
                    },
                }
            )
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        done = self.kubectl("apply", "--server-side", "-f", "-", input_text=listed)
        if done.returncode:
            raise Failure(f"the volumes could not be made: {done.stderr}")

    def _containerd_answers(self) -> bool:
        if not (self.work / "containerd.sock").exists():
            return False
        try:
            self.ctr("version")
        except Failure:
            return False
        return True

    def _api_is_ready(self) -> bool:
        return _answers(f"https://127.0.0.1:{at.API_PORT}/readyz", self.work / "pki" / "ca.crt")

    def _proxy_is_ready(self) -> bool:
        return _answers(f"http://127.0.0.1:{at.PROXY_HEALTH_PORT}/healthz")

    def _node_is_ready(self) -> bool:
        path = '{.status.conditions[?(@.type=="Ready")].status}'
        return self.kubectl("get", "node", at.NODE, "-o", f"jsonpath={path}").stdout == "True"

    def _wait_for_default_account(self) -> None:
        """Pods are refused until the controller has made their namespace's account."""

        def there() -> bool:
            return self.kubectl("get", "serviceaccount", "default").returncode == 0

        self.processes.wait("kube-controller-manager", "the namespace's account exists", there, 30)

    def _down(self) -> None:
        """First who would start pods again, then the pods, who keeps their state, what they leave."""
        if not (self.work / _MARK).exists() or {entry.name for entry in self.work.iterdir()} == {
            _MARK,
            "logs",
        }:
            return
        began = time.monotonic()
        (self.work / _COMPLETE).unlink(missing_ok=True)
        self.processes.stop(("kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager"), 5)
        leftovers.end_containers(self.work)
        emptied = self.processes.pid("containerd") is not None and store.empty(self.ctr)
        self.processes.stop(("containerd",), 10)
        self.processes.stop(self.processes.names(), 1)  # what they keep is thrown away
        if emptied:
            store.detach()
        leftovers.remove(self.work, self.programs)
        gone = [entry for entry in self.work.iterdir() if entry.name not in ("logs", _MARK)]
        run("rm", "-rf", "--one-file-system", *gone)
        print(f"down in {time.monotonic() - began:.1f} s; logs are in {self.work / 'logs'}", file=sys.stderr)


def _answers(url: str, authority: Path | None = None) -> bool:
    """True when a GET is answered 200."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if authority:
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=authority)))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
