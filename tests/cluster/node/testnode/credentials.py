"""A certificate authority, the certificates that it signs, and a kubeconfig for each client."""

import base64
import json
from pathlib import Path

from .places import API_PORT, API_SERVICE, NODE, NODE_ADDRESS
from .processes import run

_CLIENT = "extendedKeyUsage=clientAuth"
_SERVER = "extendedKeyUsage=serverAuth"
# name -> (subject, extensions). O is a group, CN the user (Kubernetes: X509 client certificates).
_CERTIFICATES = {
    "apiserver": (
        "/CN=kube-apiserver",
        f"{_SERVER}\nsubjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,"
        f"IP:127.0.0.1,IP:{API_SERVICE},IP:{NODE_ADDRESS}",
    ),
    "kubelet-server": (f"/CN={NODE}", f"{_SERVER}\nsubjectAltName=DNS:{NODE},IP:{NODE_ADDRESS}"),
    "admin": ("/O=system:masters/CN=admin", _CLIENT),
    "controller-manager": ("/CN=system:kube-controller-manager", _CLIENT),
    "scheduler": ("/CN=system:kube-scheduler", _CLIENT),
    "proxy": ("/CN=system:kube-proxy", _CLIENT),
    "kubelet": (f"/O=system:nodes/CN=system:node:{NODE}", _CLIENT),
}
CLIENTS = ("admin", "controller-manager", "scheduler", "proxy", "kubelet")
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def make(work: Path) -> None:
    """Writes pki/NAME.{crt,key}, pki/service-accounts.{key,pub} and CLIENT.kubeconfig into the folder."""
    pki = work / "pki"
    pki.mkdir(mode=0o700)
    authority = (
        "-subj",
        "/CN=godwit-test-node",
        "-days",
        "365",
        "-keyout",
        pki / "ca.key",
        "-out",
        pki / "ca.crt",
    )
    run("openssl", "req", "-x509", *_CURVE, *authority)
    for name, (subject, extensions) in _CERTIFICATES.items():
        request, wanted = pki / f"{name}.csr", pki / f"{name}.ext"
        wanted.write_text(extensions)
        run("openssl", "req", *_CURVE, "-subj", subject, "-keyout", pki / f"{name}.key", "-out", request)
        signer = ("-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-CAcreateserial", "-days", "365")
        run(
            "openssl",
            "x509",
            "-req",
            "-in",
            request,
            *signer,
            "-extfile",
            wanted,
            "-out",
            pki / f"{name}.crt",
        )
    key = pki / "service-accounts.key"
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    run("openssl", "ec", "-in", key, "-pubout", "-out", pki / "service-accounts.pub")
    for client in CLIENTS:
        file = work / f"{client}.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(_kubeconfig(pki, client))


def _kubeconfig(pki: Path, client: str) -> str:
    """A kubeconfig with everything inside (JSON is YAML)."""

    def data(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    context = "godwit-test"
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "contexts": [{"name": context, "context": {"cluster": context, "user": client}}],
            "clusters": [
                {
                    "name": context,
                    "cluster": {
                        "server": f"https://127.0.0.1:{API_PORT}",
                        "certificate-authority-data": data("ca.crt"),
                    },
                }
            ],
            "users": [
                {
                    "name": client,
                    "user": {
                        "client-certificate-data": data(f"{client}.crt"),
                        "client-key-data": data(f"{client}.key"),
                    },
                }
            ],
        },
        indent=1,
    )
