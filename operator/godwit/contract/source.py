"""The digest by which both wings know a pinned source."""

import hashlib
from collections.abc import Mapping, Sequence

from godwit.contract.base import digest


def source_content(parts: Sequence[Mapping[str, bytes]]) -> str:
    """Digest of a source's parts (ConfigMaps, in order): each key with the SHA-256 of its value."""
    return digest([sorted((key, hashlib.sha256(data).hexdigest()) for key, data in p.items()) for p in parts])
