"""Packets as they were on the wire, their checksums computed anew by scapy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from jetplane.lab.capture import Tap
from jetplane.lab.waiting import wait_until

_WHOLE = 65536


@dataclass(frozen=True, slots=True)
class Error:
    """An ICMP error, and the packet inside it."""

    outer: Packet  # IP or IPv6
    message: Packet  # ICMP, or one of scapy's ICMPv6 classes
    inside: Packet  # IP or IPv6


class Wire:
    """What passes one interface, whole packets in both directions."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._seen: list[Packet] = []

    def packets(self) -> list[Packet]:
        """All IP packets so far, as scapy reads them. Frames may be padded at the end."""
        for frame in self._tap.frames():
            if (packet := _ip(frame)) is not None:
                self._seen.append(packet)
        return self._seen

    def first(self, what: str, fits: Callable[[Packet], bool]) -> Packet:
        """Wait for a packet."""
        found: list[Packet] = []

        def look() -> bool:
            found.extend(filter(fits, self.packets()))
            return bool(found)

        wait_until(what, look)
        return found[0]

    def error(self, kind: int, code: int = 0) -> Error:
        """Wait for an ICMP error of this type and code; all its checksums must be right."""

        def is_it(packet: Packet) -> bool:
            head = bytes(packet.payload)[:2]
            return _protocol(packet) in (1, 58) and head == bytes((kind, code))

        outer = self.first(f"the ICMP error {kind}/{code}", is_it)
        assert bytes(fresh(outer)) == bytes(outer), f"wrong checksum: {outer!r}"
        data = bytes(outer.payload)[8:]
        inside = (IP if outer.version == 4 else IPv6)(data)
        whole = inside.len if outer.version == 4 else inside.plen + 40
        if len(data) >= whole:  # else its checksum cannot be computed
            inside = inside.__class__(data[:whole])
            assert bytes(fresh(inside)) == bytes(inside), f"wrong checksum inside: {inside!r}"
        elif outer.version == 4:
            header = IP(data[:20])
            assert bytes(fresh(header)) == bytes(header), f"wrong checksum inside: {header!r}"
        return Error(outer, outer.payload, inside)


@contextmanager
def watch(namespace: str, interface: str) -> Iterator[Wire]:
    """Look at an interface meanwhile."""
    with Tap(namespace, interface, snap=_WHOLE) as tap:
        yield Wire(tap)


def fresh(packet: Packet) -> Packet:
    """The same packet with its checksums computed anew; lengths stay."""
    copy = packet.copy()
    for layer in (copy, copy.payload):
        for name in ("chksum", "cksum"):
            if name in layer.fields and not (isinstance(layer, UDP) and copy.version == 4 and not layer.chksum):
                delattr(layer, name)
    return copy.__class__(bytes(copy))


def _protocol(packet: Packet) -> int:
    return int(packet.proto if packet.version == 4 else packet.nh)


def _ip(frame: bytes) -> Packet | None:
    kind = int.from_bytes(frame[12:14], "big")
    if kind == 0x0800:
        return IP(frame[14 : 14 + int.from_bytes(frame[16:18], "big")])
    if kind == 0x86DD:
        return IPv6(frame[14 : 54 + int.from_bytes(frame[18:20], "big")])
    return None


def hops(packet: Packet) -> int:
    """How many it has left."""
    return int(packet.ttl if packet.version == 4 else packet.hlim)
