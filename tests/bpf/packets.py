"""Packets in scapy's notation; the only test module that imports scapy.

    wire(IP(src=SITE, dst=NODE) / UDP(sport=53, dport=40000) / b"answer")

Lengths and checksums that a row leaves out are computed by scapy, independently of the code under test.
"""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, IPOption_NOP, TCPerror, UDPerror, in4_chksum
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLQuery2,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    ICMPv6Unknown,
    IPerror6,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    RouterAlert,
    in6_chksum,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import checksum

__all__ = [
    "AH",
    "ARP",
    "ESP",
    "FRAME",
    "HERE",
    "ICMP",
    "IP",
    "TCP",
    "THERE",
    "UDP",
    "Dot1AD",
    "Dot1Q",
    "Ether",
    "ICMPv6DestUnreach",
    "ICMPv6EchoReply",
    "ICMPv6EchoRequest",
    "ICMPv6MLQuery2",
    "ICMPv6MLReport2",
    "ICMPv6ND_NA",
    "ICMPv6ND_NS",
    "ICMPv6ND_RA",
    "ICMPv6ND_RS",
    "ICMPv6ND_Redirect",
    "ICMPv6PacketTooBig",
    "ICMPv6ParamProblem",
    "ICMPv6TimeExceeded",
    "ICMPv6Unknown",
    "IPOption_NOP",
    "IPerror",
    "IPerror6",
    "IPv6",
    "IPv6ExtHdrDestOpt",
    "IPv6ExtHdrFragment",
    "IPv6ExtHdrHopByHop",
    "IPv6ExtHdrRouting",
    "Packet",
    "Raw",
    "RouterAlert",
    "TCPerror",
    "UDPerror",
    "dissect",
    "ip",
    "sums_are_right",
    "wire",
]

HERE = "02:00:00:00:00:01"
"""The Ethernet address of the device under test."""
THERE = "02:00:00:00:00:02"
"""The Ethernet address of the router on its link."""
FRAME = Ether(src=THERE, dst=HERE)


def ip(source: str, destination: str, **fields: Any) -> Packet:
    """The IP header of the addresses' family; `ttl` stands for the hop limit as well."""
    if ":" not in source:
        return IP(src=source, dst=destination, **fields)
    if "ttl" in fields:
        fields["hlim"] = fields.pop("ttl")
    return IPv6(src=source, dst=destination, **fields)


def wire(packet: Packet, *, ethernet: bool = True) -> bytes:
    """The packet's bytes; an IP packet gets an Ethernet header first, unless `ethernet` is False."""
    if ethernet and not packet.haslayer(Ether):
        packet = FRAME / packet
    return bytes(packet)


def dissect(frame: bytes) -> Packet:
    """Parse a frame that starts with an Ethernet header."""
    return Ether(frame)


def sums_are_right(frame: bytes, *, protocol: int, transport: int, end: int) -> bool:
    """Does scapy agree with the checksums of the frame's IP header, and of the transport from `transport` to `end`?"""
    header, octets = dissect(frame[:54]).payload, frame[transport:end]
    if header.version == 6:
        wrong = [in6_chksum(protocol, IPv6(src=header.src, dst=header.dst), octets)]  # type: ignore[no-untyped-call]
    else:
        ends = IP(src=header.src, dst=header.dst)
        covered = checksum(octets) if protocol == 1 else in4_chksum(protocol, ends, octets)
        wrong = [checksum(frame[14:transport]), covered]
    return not any(value % 0xFFFF for value in wrong)
