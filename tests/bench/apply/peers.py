"""The other tools, as the interoperability tests install them."""

from apply.contenders import Peer


def peers() -> list[Peer]:
    """None yet."""
    return []
