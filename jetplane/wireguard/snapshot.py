"""A device as it is observed, without anything that tells who was where: no private or preshared key, no endpoint,
no time, no volume. It crosses from the process that read the dump to the controller in the compact form made here.

    u32 errno (0 for success, then nothing else follows), u32 fwmark, u16 listen_port, then for each peer:
    32 bytes public key, u16 persistent_keepalive, bool whether it has a preshared key, u32 count,
    count × 16 bytes address

All in host order; addresses as in model.InnerAddress.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

WIDER: Final = bytes(16)
"""Stands for an allowed IP that is not a single address. Nobody wants `::`, so whoever compares sees a difference."""

# model.V4_MAPPED, without what importing it costs the child that reads the dump.
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"
_FRONT: Final = struct.Struct("=IIH")
_PEER: Final = struct.Struct("=32sH?I")


@dataclass(slots=True)
class PeerView:
    """One peer while its parts arrive: a dump may continue a peer over several messages."""

    persistent_keepalive: int = 0  # seconds
    has_preshared_key: bool = False
    addresses: list[bytes] = field(default_factory=list)

    def __repr__(self) -> str:
        return "PeerView(hidden)"


@dataclass(slots=True)
class Snapshot:
    """What one dump says, by public key."""

    listen_port: int = 0
    fwmark: int = 0
    peers: dict[bytes, PeerView] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "Snapshot(hidden)"


def whole_address(packed: bytes, prefix_length: int) -> bytes:
    """The 16-byte form of a single address (4 or 16 bytes), WIDER for any other prefix."""
    if prefix_length != 8 * len(packed):
        return WIDER
    return _V4_MAPPED + packed if len(packed) == 4 else packed


def pack(snapshot: Snapshot) -> bytes:
    """The compact form of a snapshot."""
    parts = [_FRONT.pack(0, snapshot.fwmark, snapshot.listen_port)]
    for key, peer in snapshot.peers.items():
        parts.append(_PEER.pack(key, peer.persistent_keepalive, peer.has_preshared_key, len(peer.addresses)))
        parts += peer.addresses
    return b"".join(parts)


def pack_failure(errno: int) -> bytes:
    """The compact form of a dump that was refused."""
    return _FRONT.pack(errno, 0, 0)


def unpack(data: bytes) -> Snapshot:
    """Read the compact form. Raises OSError for a refused dump, ValueError for anything that `pack` did not write."""
    snapshot = Snapshot(*front(data))
    for key, keepalive, has_preshared_key, addresses in peers(data):
        snapshot.peers[key] = PeerView(keepalive, has_preshared_key, addresses)
    return snapshot


def front(data: bytes) -> tuple[int, int]:
    """(listen_port, fwmark); raises as `unpack`."""
    try:
        errno, fwmark, listen_port = _FRONT.unpack_from(data)
    except struct.error:
        raise ValueError("the snapshot is cut short") from None
    if errno:
        raise OSError(errno, "the dump was refused")
    return listen_port, fwmark


def peers(data: bytes) -> Iterator[tuple[bytes, int, bool, list[bytes]]]:
    """Yield (public key, keepalive, whether it has a preshared key, addresses) one by one; raises as `unpack`."""
    at = _FRONT.size
    try:
        while at < len(data):
            key, keepalive, has_preshared_key, count = _PEER.unpack_from(data, at)
            at += _PEER.size
            end = at + 16 * count
            if end > len(data):
                raise ValueError("the snapshot is cut short")
            yield key, keepalive, has_preshared_key, [data[i : i + 16] for i in range(at, end, 16)]
            at = end
    except struct.error:
        raise ValueError("the snapshot is cut short") from None
