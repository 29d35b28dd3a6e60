"""Small OCI images made of a folder: one layer, the same bytes (so the same digest) for the same content.

Formats: OCI image specification 1.1 (manifest, configuration, image layout), OCI distribution
specification 1.1 (push).
"""

import hashlib
import io
import json
import platform
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from .places import Failure

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """An image's three blobs."""

    layer: bytes
    config: bytes
    manifest: bytes

    @property
    def digest(self) -> str:
        return _digest(self.manifest)


def of_folder(folder: Path, entrypoint: list[str] | None = None) -> Image:
    """The folder's files at the image's root, owned by root and readable by all; times are zero."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            entry = tar.gettarinfo(path, str(path.relative_to(folder)))
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            entry.mode = 0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644
            if entry.isreg():
                with path.open("rb") as content:
                    tar.addfile(entry, content)
            else:
                tar.addfile(entry)
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": entrypoint} if entrypoint else {},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer.getvalue())]},
    }
    configuration = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, configuration),
        "layers": [_descriptor(_LAYER, layer.getvalue())],
    }
    return Image(layer.getvalue(), configuration, json.dumps(manifest).encode())


def archive(image: Image, name: str, target: Path) -> None:
    """Writes an image layout as a tar file, which `ctr images import` reads, under this name."""
    entry = _descriptor(_MANIFEST, image.manifest) | {"annotations": {"io.containerd.image.name": name}}
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
    }
    for blob in (image.layer, image.config, image.manifest):
        files["blobs/" + _digest(blob).replace(":", "/")] = blob
    with tarfile.open(target, "w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def push(image: Image, registry: str, name: str) -> str:
    """Uploads an image over plain HTTP; gives REGISTRY/NAME@sha256:..., which is what a pod refers to."""
    root = f"http://{registry}/v2/{name}"
    for blob in (image.layer, image.config):
        if _request("HEAD", f"{root}/blobs/{_digest(blob)}", allowed=404).status == 404:
            place = _request("POST", f"{root}/blobs/uploads/").location
            if not place:
                raise Failure(f"the registry at {registry} names no place to upload to")
            query = urllib.parse.urlencode({"digest": _digest(blob)})
            _request("PUT", f"{place}{'&' if '?' in place else '?'}{query}", blob, "application/octet-stream")
    _request("PUT", f"{root}/manifests/{image.digest}", image.manifest, _MANIFEST)
    return f"{registry}/{name}@{image.digest}"


@dataclass(frozen=True)
class _Answer:
    status: int
    location: str | None


# No proxy: the registry is on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _request(method: str, url: str, body: bytes | None = None, kind: str = "", allowed: int = 0) -> _Answer:
    request = urllib.request.Request(
        url, data=body, method=method, headers={"Content-Type": kind} if kind else {}
    )
    try:
        with _OPENER.open(request, timeout=30) as response:
            return _Answer(response.status, response.headers.get("Location"))
    except urllib.error.HTTPError as error:
        if error.code == allowed:
            return _Answer(error.code, None)
        said = error.read(1000).decode(errors="replace")
        raise Failure(f"{method} {url} was answered {error.code}: {said}") from error
    except OSError as error:
        raise Failure(f"{method} {url} failed: {error}. Is the node up?") from error


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _descriptor(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}
