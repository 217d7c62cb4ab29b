"""WireGuard's netlink attributes: their numbers, and packing and walking them.

An attribute is a header (u16 length with the header, u16 type), the value, and padding to four bytes, all in host
order. A length is 16 bits wide, so no attribute, and no list of peers, is longer than 65,535 bytes.
Sources: linux/netlink.h, linux/genetlink.h, linux/wireguard.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

FAMILY_NAME: Final = "wireguard"
FAMILY_VERSION: Final = 1

CMD_GET_DEVICE: Final = 0
CMD_SET_DEVICE: Final = 1

DEVICE_IFNAME: Final = 2
DEVICE_PRIVATE_KEY: Final = 3
DEVICE_FLAGS: Final = 5
DEVICE_LISTEN_PORT: Final = 6
DEVICE_FWMARK: Final = 7
DEVICE_PEERS: Final = 8

PEER_PUBLIC_KEY: Final = 1
PEER_PRESHARED_KEY: Final = 2
PEER_FLAGS: Final = 3
PEER_ENDPOINT: Final = 4
PEER_KEEPALIVE: Final = 5
PEER_LAST_HANDSHAKE: Final = 6
PEER_RX_BYTES: Final = 7
PEER_TX_BYTES: Final = 8
PEER_ALLOWED_IPS: Final = 9

DEVICE_REPLACE_PEERS: Final = 1 << 0

PEER_REMOVE: Final = 1 << 0
PEER_REPLACE_ALLOWED_IPS: Final = 1 << 1
PEER_UPDATE_ONLY: Final = 1 << 2

ALLOWED_IP_FAMILY: Final = 1
ALLOWED_IP_ADDRESS: Final = 2
ALLOWED_IP_MASK: Final = 3

NESTED: Final = 1 << 15
TYPE_MASK: Final = 0x3FFF

HEADROOM: Final = 20
"""Bytes at the start of each message for nlmsghdr and genlmsghdr; the socket fills them in."""

HEADER: Final = struct.Struct("=HH")
U16: Final = struct.Struct("=H")
U32: Final = struct.Struct("=I")
U64: Final = struct.Struct("=Q")


def aligned(length: int) -> int:
    """Round up to the four bytes that attributes and messages start at."""
    return (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """Pack one attribute, padding included."""
    length = HEADER.size + len(value)
    return HEADER.pack(length, kind) + value + bytes(aligned(length) - length)


def name_attribute(name: str) -> bytes:
    """The interface that a request is about."""
    return attribute(DEVICE_IFNAME, name.encode() + b"\0")


def walk(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (type, value) of each attribute. Raises ValueError when a length contradicts the data."""
    at, end = 0, len(data)
    while at + HEADER.size <= end:
        length, kind = HEADER.unpack_from(data, at)
        if length < HEADER.size or at + length > end:
            raise ValueError("a netlink attribute is longer than its message")
        yield kind & TYPE_MASK, data[at + HEADER.size : at + length]
        at += aligned(length)
