"""What a device knows of one key: `python -m jetplane.wireguard.told kernel|userspace NAME`, the key on standard input.

The only helper that tells an endpoint and a time: for `jetplane peers report`, which its subject has a right to. It
writes one JSON object, or null, on its standard output. Of a preshared key it says that there is one.
"""

from __future__ import annotations

import json
import sys

from jetplane.privacy.process import forbid_core_dumps
from jetplane.wireguard import everything
from jetplane.wireguard.everything import Peer


def told(peer: Peer | None) -> dict[str, object] | None:
    """What is said of a peer. The names are those of wg(8); bytes, seconds, Unix time."""
    if peer is None:
        return None
    host = f"[{peer.host}]" if ":" in peer.host else peer.host
    return {
        "endpoint": f"{host}:{peer.port}" if peer.is_located else None,
        "latest_handshake": peer.handshake_s or None,
        "transfer_received": peer.received,
        "transfer_sent": peer.sent,
        "persistent_keepalive": peer.keepalive,
        "has_preshared_key": bool(peer.preshared_key),
        "allowed_ips": sorted(peer.allowed_ips),
    }


def main(kind: str, name: str) -> int:
    """Run in the child. Returns its exit status; a failure says nothing, since it might quote what was read."""
    try:
        forbid_core_dumps()  # or no report is better than a leak
        key = sys.stdin.buffer.read(32)
        print(json.dumps(told(everything.read(kind, name).peers.get(key))))
    except Exception:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
