"""What each program of the node is told. Defaults stand wherever a test could see the difference."""

import json
from pathlib import Path

from . import places as at


def containerd(work: Path) -> str:
    """Configuration of containerd 2 (its version 3) with everything of its own in the work folder."""
    cri = 'plugins."io.containerd.cri.v1'
    return f"""version = 3
root = "{work}/containerd"
state = "{work}/containerd-state"
[grpc]
  address = "{work}/containerd.sock"
[{cri}.images"]
  snapshotter = "overlayfs"
  [{cri}.images".pinned_images]
    sandbox = "{at.PAUSE_NAME}"
  [{cri}.images".registry]
    config_path = "{work}/registries"
[{cri}.runtime"]
  # Hosts without CAP_SYS_RESOURCE may not lower a score, and then no pod starts.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [{cri}.runtime".cni]
    bin_dirs = ["{at.CNI_PLUGINS}"]
    conf_dir = "{work}/cni"
  [{cri}.runtime".containerd]
    default_runtime_name = "runc"
    [{cri}.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [{cri}.runtime".containerd.runtimes.runc.options]
        Root = "{work}/runc"
"""


def registry_hosts() -> str:
    """The hosts.toml of containerd for the node's registry: plain HTTP."""
    url = f"http://{at.REGISTRY}"
    return f'server = "{url}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'


def registry(work: Path) -> str:
    """The registry's configuration (JSON is YAML)."""
    return json.dumps(
        {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": f"{work}/registry"}, "delete": {"enabled": True}},
            "http": {"addr": at.REGISTRY},
        }
    )


def network(work: Path) -> str:
    """The pods' network: one bridge, addresses recorded in the work folder. There is no hostPort."""
    bridge = {
        "type": "bridge",
        "bridge": at.BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": f"{work}/cni-addresses",
            "ranges": [[{"subnet": at.POD_NETWORK, "rangeStart": at.POD_RANGE_START}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "0.4.0", "name": "godwit-test", "plugins": [bridge]}, indent=1)


def kubelet(work: Path) -> str:
    """KubeletConfiguration v1beta1 (JSON is YAML)."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": at.NODE_ADDRESS,
            "port": at.KUBELET_PORT,
            "healthzPort": at.KUBELET_HEALTH_PORT,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{work}/pki/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{work}/pki/kubelet-server.crt",
            "tlsPrivateKeyFile": f"{work}/pki/kubelet-server.key",
            "containerRuntimeEndpoint": f"unix://{work}/containerd.sock",
            "podLogsDir": f"{work}/pod-logs",
            "volumePluginDir": f"{work}/volume-plugins",
            # Hosts are as they are: cgroups of either version and driver, swap, little room.
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            # One slow pull must not hold up every other pod of a test.
            "serializeImagePulls": False,
        },
        indent=1,
    )


def commands(work: Path, programs: Path) -> dict[str, list[str]]:
    """The command line of each process, by name."""
    pki = work / "pki"
    etcd = f"http://127.0.0.1:{at.ETCD_PORT}"
    peers = f"http://127.0.0.1:{at.ETCD_PEER_PORT}"
    return {
        name: [str(programs / words[0]), *words[1:]]
        for name, words in {
            # A test cluster need not survive a power cut.
            "etcd": ["etcd", f"--data-dir={work}/etcd", "--unsafe-no-fsync", f"--listen-client-urls={etcd}"]
            + [f"--advertise-client-urls={etcd}", f"--listen-peer-urls={peers}"]
            + [f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}"],
            "kube-apiserver": ["kube-apiserver", f"--etcd-servers={etcd}", f"--secure-port={at.API_PORT}"]
            + [f"--advertise-address={at.NODE_ADDRESS}", f"--service-cluster-ip-range={at.SERVICE_NETWORK}"]
            + [f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key"]
            + [f"--client-ca-file={pki}/ca.crt", "--authorization-mode=Node,RBAC"]
            + [
                "--enable-admission-plugins=NodeRestriction",
                "--service-account-issuer=https://kubernetes.default.svc",
            ]
            + [f"--service-account-key-file={pki}/service-accounts.pub"]
            + [f"--service-account-signing-key-file={pki}/service-accounts.key"]
            + [f"--kubelet-certificate-authority={pki}/ca.crt"]
            + [f"--kubelet-client-certificate={pki}/admin.crt", f"--kubelet-client-key={pki}/admin.key"]
            + ["--kubelet-preferred-address-types=InternalIP"],
            "kube-controller-manager": [
                "kube-controller-manager",
                f"--kubeconfig={work}/controller-manager.kubeconfig",
            ]
            + [
                f"--root-ca-file={pki}/ca.crt",
                f"--service-account-private-key-file={pki}/service-accounts.key",
            ]
            + ["--use-service-account-credentials", "--leader-elect=false", "--bind-address=127.0.0.1"]
            + [f"--secure-port={at.CONTROLLER_MANAGER_PORT}"],
            "kube-scheduler": [
                "kube-scheduler",
                f"--kubeconfig={work}/scheduler.kubeconfig",
                "--leader-elect=false",
            ]
            + ["--bind-address=127.0.0.1", f"--secure-port={at.SCHEDULER_PORT}"],
            # Masquerading all service traffic brings answers of pods on one bridge back through the node,
            # with or without br_netfilter. The conntrack limits stay the host's own.
            "kube-proxy": [
                "kube-proxy",
                f"--kubeconfig={work}/proxy.kubeconfig",
                f"--hostname-override={at.NODE}",
            ]
            + [f"--cluster-cidr={at.POD_NETWORK}", "--proxy-mode=iptables", "--masquerade-all"]
            + [f"--healthz-bind-address=127.0.0.1:{at.PROXY_HEALTH_PORT}"]
            + [f"--metrics-bind-address=127.0.0.1:{at.PROXY_METRICS_PORT}", "--conntrack-max-per-core=0"]
            + ["--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"],
            "containerd": ["containerd", f"--config={work}/containerd.toml"],
            "kubelet": ["kubelet", f"--config={work}/kubelet.json", f"--kubeconfig={work}/kubelet.kubeconfig"]
            + [
                f"--hostname-override={at.NODE}",
                f"--root-dir={work}/kubelet",
                f"--node-ip={at.NODE_ADDRESS}",
            ],
            "registry": ["registry", "serve", f"{work}/registry.json"],
        }.items()
    }
