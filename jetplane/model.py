"""What the controller talks about: peers as they are wanted and as they are observed.

Nothing here says a key or an address when it is printed: a traceback or a log line that holds a peer
identifies nobody.
"""

from __future__ import annotations

import base64
import binascii
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import netaddr

from jetplane.errors import PeerError

V4_MAPPED = bytes(10) + b"\xff\xff"
"""The twelve bytes before an IPv4 address in its 16-byte form (RFC 4291, section 2.5.5.2)."""


class _Hidden(bytes):
    """Bytes that never appear in a message."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"

    __str__ = __repr__


class PublicKey(_Hidden):
    """A Curve25519 public key: 32 bytes, as on the wire."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read the base64 form of wg(8). Raises PeerError without repeating the text."""
        return cls(_decode_key(text, "public_key"))

    def text(self) -> str:
        """The base64 form of wg(8), for the operator's own files and output."""
        return base64.b64encode(self).decode()


class PresharedKey(_Hidden):
    """A preshared key: 32 bytes."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> PresharedKey:
        """Read the base64 form of wg(8). Raises PeerError without repeating the text."""
        return cls(_decode_key(text, "preshared_key"))

    def text(self) -> str:
        """The base64 form of wg(8)."""
        return base64.b64encode(self).decode()


class InnerAddress(_Hidden):
    """A subscriber address: 16 bytes in network order, IPv4 as ::ffff:a.b.c.d. The key of the BPF maps."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> InnerAddress:
        """Read `10.0.0.2/32`, `10.0.0.2`, `fd00::2/128` or `fd00::2`.

        A peer owns whole addresses: an exact match is what the data path can look up at line rate.
        Raises PeerError for anything wider than one address, without repeating the text.
        """
        if packed := _plain_address(text):
            return cls(packed)
        try:
            network = netaddr.IPNetwork(text)
        except (netaddr.AddrFormatError, ValueError, TypeError):
            raise PeerError("allowed_ips: not an IPv4 or IPv6 address") from None
        if network.size != 1:
            raise PeerError("allowed_ips: wider than one address; list single addresses (/32 or /128)")
        packed = network.ip.packed
        return cls(V4_MAPPED + packed if network.version == 4 else packed)

    @property
    def family(self) -> Literal[4, 6]:
        """4 or 6."""
        return 4 if self[:12] == V4_MAPPED else 6

    @property
    def packed(self) -> bytes:
        """4 or 16 bytes, network order."""
        return bytes(self[12:]) if self.family == 4 else bytes(self)

    @property
    def prefix_length(self) -> int:
        """32 or 128."""
        return 32 if self.family == 4 else 128

    def text(self) -> str:
        """`10.0.0.2/32`, as wg(8) writes it."""
        return str(netaddr.IPAddress(int.from_bytes(self.packed), version=self.family)) + f"/{self.prefix_length}"


def _plain_address(text: str) -> bytes | None:
    """The usual ways to write one address, read without netaddr: a hundred thousand are read at a start."""
    address, _, length = text.partition("/")
    family, whole = (socket.AF_INET6, "128") if ":" in address else (socket.AF_INET, "32")
    if length not in ("", whole) or text.endswith("/"):
        return None
    try:
        packed = socket.inet_pton(family, address)
    except (OSError, ValueError):
        return None
    return packed if family == socket.AF_INET6 else V4_MAPPED + packed


def _decode_key(text: str, name: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise PeerError(f"{name}: not base64") from None
    if len(raw) != 32:
        raise PeerError(f"{name}: {len(raw)} bytes instead of 32")
    return raw


@dataclass(frozen=True, slots=True)
class Rate:
    """What one peer may send and receive: bytes per second, 0 for no limit."""

    up: int = 0
    down: int = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as it is wanted.

    `None` means "leave alone": a preshared key that is None is neither set nor removed on a live peer.
    """

    public_key: PublicKey
    allowed_ips: tuple[InnerAddress, ...]
    preshared_key: PresharedKey | None = None
    persistent_keepalive: int = 0  # seconds, 0 for off
    rate: Rate = field(default_factory=Rate)
    expires_at: int | None = None  # Unix seconds, UTC: from this second on the peer is not wanted; None for never
    statistics: bool = True  # False: it objects, and nothing of its traffic counts in any figure that is released
    restricted: bool = False  # True: its record is kept, and no traffic of it is processed

    def __repr__(self) -> str:
        return "Peer(hidden)"


@dataclass(frozen=True, slots=True)
class ObservedPeer:
    """A peer as WireGuard holds it: only what reconciling needs. Never an endpoint, a time or a volume."""

    public_key: PublicKey
    allowed_ips: tuple[InnerAddress, ...]
    persistent_keepalive: int = 0
    has_preshared_key: bool = False

    def __repr__(self) -> str:
        return "ObservedPeer(hidden)"


Wanted = Mapping[PublicKey, Peer]
Observed = Mapping[PublicKey, ObservedPeer]
