"""How many peers a device remembers for too long: `python -m jetplane.wireguard.overdue kernel|userspace NAME S S`.

The two times are in seconds: how old a handshake may be whose peer still has an endpoint or a time, and how long a
half-open handshake may last. It says nothing but three numbers, as JSON. WireGuard does not tell when a half-open
handshake began: who sees some looks again after that time, and counts those that are there still.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable

from jetplane.privacy.process import forbid_core_dumps
from jetplane.wireguard import everything
from jetplane.wireguard.everything import Peer


def is_overdue(peer: Peer, now: float, stale_s: float) -> bool:
    """Whether its handshake is older than that, by a clock that may have been set in either direction."""
    return peer.handshake_s > 0 and abs(now - peer.handshake_s) > stale_s


def half_open(peers: Iterable[Peer]) -> frozenset[tuple[bytes, int]]:
    """(public key, bytes received) of those that have an endpoint and never had a handshake."""
    return frozenset((peer.public_key, peer.received) for peer in peers if peer.handshake_s == 0 and peer.is_located)


def look(kind: str, name: str, stale_s: float, half_open_s: float) -> dict[str, int]:
    """Count. Raises OSError as the device does."""
    peers = everything.read(kind, name).peers.values()
    overdue = sum(is_overdue(peer, time.time(), stale_s) for peer in peers)
    half = half_open(peers)
    if half:
        time.sleep(half_open_s)
        half &= half_open(everything.read(kind, name).peers.values())
    return {"peers": len(peers), "overdue": overdue, "half_open": len(half)}


def main(kind: str, name: str, stale_s: str, half_open_s: str) -> int:
    """Run in the child. Returns its exit status; a failure says nothing, since it might quote what was read."""
    try:
        forbid_core_dumps()  # or no look is better than a leak
        print(json.dumps(look(kind, name, float(stale_s), float(half_open_s))))
    except Exception:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
