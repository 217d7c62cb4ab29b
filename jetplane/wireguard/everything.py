"""Everything that a dump says, peer by peer. Only for processes that end at once and tell less than they have read."""

from __future__ import annotations

import socket
import struct
from binascii import unhexlify
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from jetplane.wireguard import device
from jetplane.wireguard.attributes import (
    ALLOWED_IP_ADDRESS,
    ALLOWED_IP_MASK,
    DEVICE_PEERS,
    DEVICE_PRIVATE_KEY,
    PEER_ALLOWED_IPS,
    PEER_ENDPOINT,
    PEER_KEEPALIVE,
    PEER_LAST_HANDSHAKE,
    PEER_PRESHARED_KEY,
    PEER_PUBLIC_KEY,
    PEER_RX_BYTES,
    PEER_TX_BYTES,
    U16,
    U64,
    walk,
)

_NONE: Final = bytes(32)
_DISCARD: Final = ("::1", 9)


@dataclass(slots=True)
class Peer:
    """One peer as its device knows it."""

    public_key: bytes
    preshared_key: bytes = b""  # empty: none
    host: str = ""  # of its endpoint; empty: none
    port: int = 0
    handshake_s: int = 0  # Unix time; 0: never
    received: int = 0  # bytes
    sent: int = 0
    keepalive: int = 0  # seconds
    allowed_ips: list[str] = field(default_factory=list)  # as wg(8) writes them

    @property
    def is_located(self) -> bool:
        """Whether it has an endpoint, other than what the sweeper overwrites one with (idle.DISCARD)."""
        return bool(self.host) and (self.host, self.port) != _DISCARD

    def __repr__(self) -> str:
        return "Peer(hidden)"


@dataclass(slots=True)
class Device:
    """The whole device."""

    private_key: bytes = b""
    peers: dict[bytes, Peer] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "Device(hidden)"


def read(kind: str, name: str) -> Device:
    """Read it. Raises OSError as the device does, ValueError for an answer that is none."""
    return device.read(kind, name, of_kernel, of_userspace)


def of_kernel(messages: Iterable[memoryview]) -> Device:
    """Join the messages of one WG_CMD_GET_DEVICE answer, each given as its attributes."""
    found = Device()
    for message in messages:
        for kind, value in walk(message):
            if kind == DEVICE_PRIVATE_KEY:
                found.private_key = _secret(bytes(value))
            elif kind == DEVICE_PEERS:
                for _, peer in walk(value):
                    _add(peer, found)
    return found


def _add(data: memoryview, found: Device) -> None:
    attributes = dict(walk(data))
    key = bytes(attributes[PEER_PUBLIC_KEY])
    peer = found.peers.setdefault(key, Peer(key))
    if PEER_PRESHARED_KEY in attributes:
        peer.preshared_key = _secret(bytes(attributes[PEER_PRESHARED_KEY]))
    if PEER_ENDPOINT in attributes:
        peer.host, peer.port = _endpoint(bytes(attributes[PEER_ENDPOINT]))
    if PEER_LAST_HANDSHAKE in attributes:  # struct __kernel_timespec: seconds first
        (peer.handshake_s,) = U64.unpack_from(attributes[PEER_LAST_HANDSHAKE])
    if PEER_RX_BYTES in attributes:
        (peer.received,) = U64.unpack(attributes[PEER_RX_BYTES])
    if PEER_TX_BYTES in attributes:
        (peer.sent,) = U64.unpack(attributes[PEER_TX_BYTES])
    if PEER_KEEPALIVE in attributes:
        (peer.keepalive,) = U16.unpack(attributes[PEER_KEEPALIVE])
    peer.allowed_ips += map(_prefix, (entry for _, entry in walk(attributes.get(PEER_ALLOWED_IPS, memoryview(b"")))))


def _endpoint(data: bytes) -> tuple[str, int]:
    """Read a struct sockaddr_in or sockaddr_in6: family in host order, port and address in network order."""
    (family,) = U16.unpack_from(data)
    (port,) = struct.unpack_from("!H", data, 2)
    at, size = (4, 4) if family == socket.AF_INET else (8, 16)
    return socket.inet_ntop(family, data[at : at + size]), port


def _prefix(data: memoryview) -> str:
    entry = dict(walk(data))
    packed = bytes(entry[ALLOWED_IP_ADDRESS])
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return f"{socket.inet_ntop(family, packed)}/{entry[ALLOWED_IP_MASK][0]}"


def _secret(key: bytes) -> bytes:
    """Zeros say "none"."""
    return b"" if key == _NONE else key


def of_userspace(lines: Iterable[bytes]) -> tuple[int, Device]:
    """The errno of an answer to `get=1`, and the same."""
    found, peer = Device(), Peer(b"")
    for name, value in _pairs(lines):
        match name:
            case "errno":
                return abs(int(value)), found
            case "private_key":
                found.private_key = _secret(unhexlify(value))
            case "public_key":
                peer = found.peers.setdefault(unhexlify(value), Peer(unhexlify(value)))
            case "preshared_key":
                peer.preshared_key = _secret(unhexlify(value))
            case "endpoint":
                host, _, port = value.rpartition(":")
                peer.host, peer.port = host.strip("[]"), int(port)
            case "last_handshake_time_sec":
                peer.handshake_s = int(value)
            case "rx_bytes":
                peer.received = int(value)
            case "tx_bytes":
                peer.sent = int(value)
            case "persistent_keepalive_interval":
                peer.keepalive = int(value)
            case "allowed_ip":
                peer.allowed_ips.append(value)
    raise ValueError("the answer ends without errno")


def _pairs(lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.rstrip(b"\n").decode("ascii").partition("=")
        yield name, value
