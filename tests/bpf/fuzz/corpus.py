"""The packets that wrong ones are made of: every kind that is valid, in both families and both directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.bpf.guard_packets import fragment, wireguard
from tests.bpf.model.packets import End, Error, Segment
from tests.bpf.nat_frames import KINDS, frame
from tests.bpf.nat_world import (
    EXIT,
    FAMILIES,
    INNER,
    INNER_2,
    NODE,
    OTHER,
    PROTOCOLS,
    ROUTER,
    SITE,
    TUNNEL,
    answer,
    out_packet,
    query,
)
from tests.bpf.packets import (
    ARP,
    ESP,
    TCP,
    UDP,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    Packet,
    ip,
    wire,
)

PORT, PORT_2 = 600 * 64 + 8, 601 * 64 + 8
"""The external ports of the two subscribers' bindings, in every pool; inside they are at 40000."""
OPTIONS = [("MSS", 8960), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]


@dataclass(frozen=True, slots=True)
class Corpus:
    out: tuple[bytes, ...]
    inbound: tuple[bytes, ...]
    own: tuple[bytes, ...]
    """What the node itself sends."""


def corpus() -> Corpus:
    return Corpus(
        out=tuple(octets for version in FAMILIES for octets in _out(version)),
        inbound=tuple(octets for version in FAMILIES for octets in _inbound(version)),
        own=tuple(octets for version in FAMILIES for octets in _own(version)),
    )


def _out(version: int) -> Iterator[bytes]:
    for protocol in PROTOCOLS:
        for destination in (SITE, OTHER, EXIT, INNER_2, NODE, TUNNEL):
            yield wire(out_packet(version, protocol, destination=destination[version], dport=PORT_2))
        yield from (wire(part) for part in _fragments(out_packet(version, protocol, payload=bytes(64))))
    for flags in ("S", "SA", "A", "FA", "R"):
        yield wire(out_packet(version, "tcp", flags=flags, options=OPTIONS if "S" in flags else []))
    yield from _extended(INNER[version], SITE[version], 40000, 443)
    for protocol in PROTOCOLS:
        about = _segment(protocol, End(SITE[version], 443), End(INNER[version], 40000), 40000, reply=True)
        yield from _errors(INNER[version], SITE[version], about)
    yield from _rest(INNER[version], SITE[version])


def _inbound(version: int) -> Iterator[bytes]:
    for protocol in PROTOCOLS:
        for source, port in ((SITE, PORT), (OTHER, PORT), (SITE, PORT_2), (SITE, 7)):
            yield wire(answer(version, protocol, port, source=source[version]))
        yield wire(answer(version, protocol, PORT, payload=bytes(1400)))
        yield from (wire(part) for part in _fragments(answer(version, protocol, PORT, payload=bytes(64))))
        about = _segment(protocol, End(EXIT[version], PORT), End(SITE[version], 443), PORT)
        yield from _errors(ROUTER[version], EXIT[version], about)
    for flags in ("S", "SA", "A", "FA", "R"):
        yield wire(answer(version, "tcp", PORT, flags=flags, options=OPTIONS if "S" in flags else []))
    yield from _extended(SITE[version], EXIT[version], 443, PORT)
    yield wire(ip(SITE[version], NODE[version]) / UDP(sport=9, dport=51820) / wireguard(1, 148))
    yield wire(ip(SITE[version], NODE[version]) / query(version, 1))
    yield wire(answer(version, "udp", 68, destination=NODE[version]))
    yield wire(ip(SITE[version], EXIT[version]) / query(version, PORT))
    yield from _rest(SITE[version], EXIT[version])


def _own(version: int) -> Iterator[bytes]:
    for protocol in PROTOCOLS:
        for source in (NODE, EXIT, INNER, TUNNEL, SITE):
            yield wire(out_packet(version, protocol, source=source[version], destination=OTHER[version]))
        about = _segment(protocol, End(SITE[version], 443), End(INNER[version], 40000), 40000, reply=True)
        yield from _errors(NODE[version], SITE[version], about)
    yield from _rest(EXIT[version], SITE[version])


def _segment(protocol: str, source: End, destination: End, identifier: int, *, reply: bool = False) -> Segment:
    if protocol == "icmp":
        source, destination = source._replace(port=identifier), destination._replace(port=identifier)
    return Segment(protocol, source, destination, ttl=9, flags="A", reply=reply and protocol == "icmp")  # type: ignore[arg-type]


def _errors(source: str, destination: str, about: Segment) -> Iterator[bytes]:
    for kind in range(KINDS):
        for quoted in (8, None):
            yield frame(Error(source, destination, kind, about, quoted))


def _extended(source: str, destination: str, sport: int, dport: int) -> Iterator[bytes]:
    if ":" in source:
        for headers in (IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()):
            for transport in (UDP(sport=sport, dport=dport) / b"data", TCP(sport=sport, dport=dport, flags="S")):
                yield wire(IPv6(src=source, dst=destination) / headers / transport)


def _fragments(packet: Packet) -> Iterator[Packet]:
    yield fragment(packet, 0, more=True)
    yield fragment(packet, 48, more=False)


def _rest(source: str, destination: str) -> Iterator[bytes]:
    yield wire(ip(source, destination) / ESP(spi=5, seq=1, data=bytes(24)))
    if ":" in source:
        yield wire(IPv6(src="fe80::2", dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt="fd00::1"))
    else:
        yield wire(ARP())
        yield wire(ip(source, destination) / UDP(sport=40000, dport=443, chksum=0) / b"data")
