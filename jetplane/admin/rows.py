"""A peer as lists show it: what its operator wrote, nothing of what it does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jetplane.model import Peer


def row(peer: Peer, tunnel: str) -> dict[str, Any]:
    """The same shape whether the controller tells it or the files do. Times are RFC 3339 in UTC."""
    at = peer.expires_at
    return {
        "public_key": peer.public_key.text(),
        "allowed_ips": [address.text() for address in peer.allowed_ips],
        "tunnel": tunnel,
        "expires_at": None if at is None else datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z"),
        "statistics": peer.statistics,
        "restricted": peer.restricted,
    }
