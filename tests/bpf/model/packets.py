"""Packets as the model sees them: the two ends, and the few things that a translation may look at or change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from ipaddress import ip_address
from typing import Literal, NamedTuple

Protocol = Literal["tcp", "udp", "icmp"]
HEADER_BYTES = {4: 20, 6: 40}
TRANSPORT_BYTES = {"tcp": 20, "udp": 8, "icmp": 8}
MSS_OPTION_BYTES = 4


class End(NamedTuple):
    """An address and a port; of an ICMP query the port is its identifier, at both ends."""

    address: str
    port: int

    @property
    def version(self) -> int:
        return _version(self.address)


@cache
def _version(address: str) -> int:
    return ip_address(address).version


@dataclass(frozen=True, slots=True)
class Segment:
    """TCP, UDP or an ICMP echo."""

    protocol: Protocol
    source: End
    destination: End
    ttl: int = 64
    flags: str = ""
    """Of TCP, in tcpdump's letters."""
    mss: int | None = None
    """Of TCP: the option in its header."""
    reply: bool = False
    """Of ICMP: the answer to an echo, not the request."""
    summed: bool = True
    """Of UDP over IPv4: False: without a checksum (RFC 768)."""
    payload: bytes = b"payload"

    @property
    def version(self) -> int:
        return self.source.version

    @property
    def length(self) -> int:
        """Bytes of the whole IP packet."""
        option = MSS_OPTION_BYTES if self.mss is not None else 0
        return HEADER_BYTES[self.version] + TRANSPORT_BYTES[self.protocol] + option + len(self.payload)

    def from_(self, end: End) -> Segment:
        """The same with another source; a query's identifier stands for both ends."""
        both = self.destination._replace(port=end.port) if self.protocol == "icmp" else self.destination
        return replace(self, source=end, destination=both)

    def to(self, end: End) -> Segment:
        """The same with another destination."""
        both = self.source._replace(port=end.port) if self.protocol == "icmp" else self.source
        return replace(self, source=both, destination=end)

    def hop(self) -> Segment:
        """One router further."""
        return replace(self, ttl=self.ttl - 1)

    def clamped(self, mtu: int) -> Segment:
        """A SYN that announces no larger segments than fit (RFC 6691)."""
        room = mtu - HEADER_BYTES[self.version] - TRANSPORT_BYTES["tcp"]
        if self.protocol != "tcp" or "S" not in self.flags or self.mss is None or self.mss <= room:
            return self
        return replace(self, mss=room)


@dataclass(frozen=True, slots=True)
class Error:
    """An ICMP error with the start of the packet that it is about."""

    source: str
    destination: str
    kind: int
    """Which of its family's errors; the model does not care."""
    about: Segment
    quoted: int | None = None
    """How many bytes behind the IP header are quoted; None: all."""
    ttl: int = 64

    @property
    def version(self) -> int:
        return ip_address(self.source).version

    def hop(self) -> Error:
        """One router further."""
        return replace(self, ttl=self.ttl - 1)


Packet = Segment | Error
