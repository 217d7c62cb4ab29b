"""The cross-platform userspace protocol: where its sockets are, and what their answers say.

Lines of `key=value` over a Unix socket; an empty line ends a request and an answer. Keys are in hexadecimal there, not
in base64. Source: https://www.wireguard.com/xplatform/
"""

from __future__ import annotations

import socket
from binascii import unhexlify
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from jetplane.wireguard.snapshot import PeerView, Snapshot, whole_address

SOCKETS: Final = Path("/var/run/wireguard")


def socket_path(name: str) -> Path:
    """Where the implementation behind an interface listens. The directory is one for all network namespaces."""
    return SOCKETS / f"{name}.sock"


def decode(lines: Iterable[bytes]) -> tuple[int, Snapshot]:
    """Read the answer to `get=1` and return its errno and what may be kept of it. It keeps no secret.

    Raises ValueError when it is not such an answer.
    """
    snapshot = Snapshot()
    peer = PeerView()
    for line in lines:
        name, _, value = line.rstrip(b"\n").partition(b"=")
        match name:
            case b"errno":
                return abs(int(value)), snapshot
            case b"public_key":
                peer = snapshot.peers.setdefault(unhexlify(value), PeerView())
            case b"allowed_ip":
                peer.addresses.append(_decode_prefix(value.decode()))
            case b"persistent_keepalive_interval":
                peer.persistent_keepalive = int(value)
            case b"preshared_key":
                peer.has_preshared_key = value.strip(b"0") != b""  # zeros say "none"
            case b"listen_port":
                snapshot.listen_port = int(value)
            case b"fwmark":
                snapshot.fwmark = int(value, 0)
    raise ValueError("the answer ends without errno")


def _decode_prefix(text: str) -> bytes:
    address, _, length = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return whole_address(socket.inet_pton(family, address), int(length))
