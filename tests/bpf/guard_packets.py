"""The parts that the guard's rows are put together from."""

from __future__ import annotations

from tests.bpf.guard_world import (
    BOUND,
    EXIT,
    SITE,
)
from tests.bpf.harness import Case, Xdp
from tests.bpf.packets import (
    FRAME,
    ICMP,
    TCP,
    UDP,
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPerror,
    IPerror6,
    IPv6ExtHdrFragment,
    Packet,
    Raw,
    UDPerror,
    wire,
)


def fragment(packet: Packet, offset: int, *, more: bool) -> Packet:
    """Turn IP / payload into a fragment at `offset` bytes."""
    if packet.version == 4:
        first = packet.copy()
        first.flags, first.frag = "MF" if more else "", offset // 8
        return first
    header, payload = packet.copy(), packet.payload
    header.remove_payload()
    header.nh = 44
    return header / IPv6ExtHdrFragment(nh=packet.nh, offset=offset // 8, m=int(more), id=7) / payload


def echo_request(version: int, identifier: int = 1) -> Packet:
    return ICMP(type=8, id=identifier) if version == 4 else ICMPv6EchoRequest(id=identifier)


def echo_reply(version: int, identifier: int = 1) -> Packet:
    return ICMP(type=0, id=identifier) if version == 4 else ICMPv6EchoReply(id=identifier)


def errors(version: int) -> dict[str, Packet]:
    """Every kind of ICMP error, about a packet from the binding at EXIT to SITE."""
    header = IPerror if version == 4 else IPerror6
    about = header(src=EXIT[version], dst=SITE[version]) / UDPerror(sport=BOUND, dport=443) / b"data"
    if version == 4:
        return {
            "unreachable": ICMP(type=3, code=1) / about,
            "too big": ICMP(type=3, code=4, nexthopmtu=1300) / about,
            "time exceeded": ICMP(type=11) / about,
            "parameter problem": ICMP(type=12) / about,
        }
    return {
        "unreachable": ICMPv6DestUnreach() / about,
        "too big": ICMPv6PacketTooBig(mtu=1300) / about,
        "time exceeded": ICMPv6TimeExceeded() / about,
        "parameter problem": ICMPv6ParamProblem() / about,
    }


def answer(version: int, protocol: str, port: int) -> Packet:
    """The transport header of an answer to a port, or an ICMP identifier."""
    if protocol == "icmp":
        return echo_reply(version, port)
    return TCP(sport=443, dport=port, flags="A") if protocol == "tcp" else UDP(sport=443, dport=port)


def wireguard(kind: int, length: int, reserved: bytes = bytes(3)) -> bytes:
    """A datagram's payload that begins like a WireGuard message."""
    return (bytes([kind]) + reserved + bytes(range(256)) * 6)[:length]


def passed(name: str, packet: bytes | Packet) -> Case:
    return Case(name, packet if isinstance(packet, bytes) else wire(packet), Xdp.PASS, "GUARD_PASSED")


def dropped(name: str, reason: str, packet: bytes | Packet) -> Case:
    return Case(name, packet if isinstance(packet, bytes) else wire(packet), Xdp.DROP, reason)


def ethernet(kind: int, payload: bytes = bytes(46)) -> bytes:
    return bytes(FRAME)[:12] + kind.to_bytes(2) + payload


def carrying(header: Packet, protocol: int, octets: bytes) -> Packet:
    """An IP header in front of bytes that are said to be of `protocol`."""
    header = header.copy()
    setattr(header, "proto" if header.version == 4 else "nh", protocol)
    return header / Raw(octets)
