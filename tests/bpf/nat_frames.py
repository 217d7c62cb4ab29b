"""From the model's packets to bytes: built by scapy, which computes every length and checksum anew."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

from tests.bpf.model.packets import HEADER_BYTES, End, Error, Packet, Segment
from tests.bpf.nat_world import query
from tests.bpf.packets import (
    ICMP,
    TCP,
    UDP,
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    Raw,
    ip,
    wire,
)
from tests.bpf.packets import Packet as Layers

ETHERNET = 14
KINDS = 4
"""Of ICMP errors, in each family."""


def frame(packet: Packet, *, ethernet: bool = True) -> bytes:
    """The packet as it is on the wire."""
    layers = _segment(packet) if isinstance(packet, Segment) else _error(packet)
    return wire(layers, ethernet=ethernet)


def source_of(octets: bytes) -> End:
    """Where a frame with ports or an identifier, and without IP options or extensions, comes from."""
    version = octets[ETHERNET] >> 4
    address = octets[ETHERNET + 12 :][:4] if version == 4 else octets[ETHERNET + 8 :][:16]
    protocol = octets[ETHERNET + (9 if version == 4 else 6)]
    place = ETHERNET + HEADER_BYTES[version] + (4 if protocol in (1, 58) else 0)
    return End(str(ip_address(address)), *struct.unpack_from("!H", octets, place))


def _segment(packet: Segment) -> Layers:
    header = ip(packet.source.address, packet.destination.address, ttl=packet.ttl)
    if packet.protocol == "icmp":
        return header / query(packet.version, packet.source.port, reply=packet.reply, payload=packet.payload)
    ports: dict[str, Any] = {"sport": packet.source.port, "dport": packet.destination.port}
    if packet.protocol == "udp":
        return header / (UDP(**ports) if packet.summed else UDP(**ports, chksum=0)) / packet.payload
    options = [] if packet.mss is None else [("MSS", packet.mss)]
    return header / TCP(**ports, flags=packet.flags, options=options) / packet.payload


def _error(packet: Error) -> Layers:
    about = frame(packet.about, ethernet=False)
    if packet.quoted is not None:
        about = about[: HEADER_BYTES[packet.version] + packet.quoted]
    kinds = (
        (ICMP(type=3, code=3), ICMP(type=3, code=4, nexthopmtu=1280), ICMP(type=11), ICMP(type=12))
        if packet.version == 4
        else (ICMPv6DestUnreach(code=4), ICMPv6PacketTooBig(mtu=1280), ICMPv6TimeExceeded(), ICMPv6ParamProblem())
    )
    return ip(packet.source, packet.destination, ttl=packet.ttl) / kinds[packet.kind] / Raw(about)
