"""WG_CMD_GET_DEVICE answers → Snapshot. Used only by the process that reads dumps; it keeps no secret."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from jetplane.wireguard.attributes import (
    ALLOWED_IP_ADDRESS,
    ALLOWED_IP_MASK,
    DEVICE_FWMARK,
    DEVICE_LISTEN_PORT,
    DEVICE_PEERS,
    PEER_ALLOWED_IPS,
    PEER_KEEPALIVE,
    PEER_PRESHARED_KEY,
    PEER_PUBLIC_KEY,
    U16,
    U32,
    walk,
)
from jetplane.wireguard.snapshot import PeerView, Snapshot, whole_address


def decode(messages: Iterable[memoryview]) -> Snapshot:
    """Join the messages of one dump, each given as its attributes. Raises ValueError when they contradict themselves.

    A peer whose allowed IPs do not fit is continued in the next message under the same key; its keepalive stands only
    in the first part (linux/wireguard.h).
    """
    snapshot = Snapshot()
    try:
        for message in messages:
            _decode_device(message, snapshot)
    except struct.error:
        raise ValueError("a netlink attribute has the wrong size") from None
    return snapshot


def _decode_device(data: memoryview, snapshot: Snapshot) -> None:
    for kind, value in walk(data):
        if kind == DEVICE_LISTEN_PORT:
            (snapshot.listen_port,) = U16.unpack(value)
        elif kind == DEVICE_FWMARK:
            (snapshot.fwmark,) = U32.unpack(value)
        elif kind == DEVICE_PEERS:
            for _, peer in walk(value):
                _decode_peer(peer, snapshot)


def _decode_peer(data: memoryview, snapshot: Snapshot) -> None:
    peer: PeerView | None = None
    for kind, value in walk(data):
        if kind == PEER_PUBLIC_KEY:
            peer = snapshot.peers.setdefault(bytes(value), PeerView())
        elif peer is None:
            continue  # the kernel writes the key first
        elif kind == PEER_KEEPALIVE:
            (peer.persistent_keepalive,) = U16.unpack(value)
        elif kind == PEER_PRESHARED_KEY:
            peer.has_preshared_key = any(value)  # zeros say "none"
        elif kind == PEER_ALLOWED_IPS:
            peer.addresses.extend(_decode_allowed_ip(entry) for _, entry in walk(value))


def _decode_allowed_ip(data: memoryview) -> bytes:
    packed, prefix_length = b"", -1
    for kind, value in walk(data):
        if kind == ALLOWED_IP_ADDRESS:
            packed = bytes(value)
        elif kind == ALLOWED_IP_MASK:
            prefix_length = value[0]
    return whole_address(packed, prefix_length)
