"""The datagrams of the benches: made here, completed by traffic.bpf.c, and checked here when they arrive. Pure."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from jetplane.errors import JetplaneError

DISCARD_PORT = 9
FIRST_PORT = 20_000
MAX_FLOWS = {4: 1 << 20, 6: 1 << 12}
"""By IP version; the sink has a place for each."""
_UDP = 17
HEADERS = {4: 14 + 20 + 8, 6: 14 + 40 + 8}
"""Bytes of a frame in front of its payload."""
SHORTEST = {4: bytes(18), 6: bytes(10)}
"""The payload of the smallest frames: in it the program enters the flow's number, twice."""
_ADDRESS_AT = {4: (26, 30), 6: (22, 38)}  # offsets of source and destination, Ethernet header included
_UDP_AT = {4: 34, 6: 54}
_TTL_AT = {4: 22, 6: 21}


@dataclass(frozen=True, slots=True)
class Template:
    """A frame without TTL, checksums and whatever differs from flow to flow, and the sums of all the rest."""

    frame: bytes
    network_sum: int
    transport_sum: int
    source_end: int = 0
    """The last four bytes of the source, as a number; the program enters them."""
    destination_end: int = 0


@dataclass(frozen=True, slots=True)
class Whole:
    """A frame for flood.bpf.c, whole but for IPv4's checksum and one word of its source: the last one of IPv4, the
    second of IPv6, which /64s differ in."""

    version: int
    frame: bytes
    network_sum: int
    """Of IPv4's header without that word."""
    source_word: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a frame said when it reached the sink."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    ttl: int


def template(
    *,
    to_mac: bytes,
    from_mac: bytes,
    source: str,
    destination: str | None,
    source_port: int = 0,
    destination_port: int = 0,
    payload: bytes = b"",
) -> Template:
    """A UDP datagram, of the shortest when there is no payload. A port of 0, a destination of None, the last four bytes
    of addresses, and eight bytes of the payload are entered, flow by flow, by the program."""
    address = ipaddress.ip_address(source)
    payload = payload or SHORTEST[address.version]
    length = 8 + len(payload)
    origin = _without_end(address.packed)
    to = _without_end(ipaddress.ip_address(destination).packed) if destination else bytes(len(address.packed))
    udp = struct.pack("!HHHH", source_port, destination_port, length, 0)
    if address.version == 4:
        network = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 0, _UDP, 0) + origin + to
        ethertype = b"\x08\x00"
    else:
        network = struct.pack("!IHBB", 6 << 28, length, _UDP, 0) + origin + to
        ethertype = b"\x86\xdd"
    pseudo = origin + to + struct.pack("!HH", _UDP, length)
    frame = to_mac + from_mac + ethertype + network + udp + payload
    frame += bytes(-len(frame) % 4)
    return Template(frame, _sum(network), _sum(pseudo + udp + payload), _end(source), _end(destination or "::"))


def whole(*, to_mac: bytes, source: str, destination: str, protocol: int, transport: bytes) -> Whole:
    """A packet of any protocol, at least as long as Ethernet has them, and a multiple of four bytes.

    The checksum of `transport` is the caller's: nobody whom the benches compare looks at it before dropping.
    """
    address, to = ipaddress.ip_address(source), ipaddress.ip_address(destination).packed
    origin, word = address.packed, address.packed[:4]
    if address.version == 4:
        origin = bytes(4)
    else:
        word = origin[4:8]
    if address.version == 4:
        network = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(transport), 0, 0x4000, 64, protocol, 0) + origin + to
        ethertype = b"\x08\x00"
    else:
        network = struct.pack("!IHBB", 6 << 28, len(transport), protocol, 64) + origin + to
        ethertype = b"\x86\xdd"
    frame = to_mac + bytes(6) + ethertype + network + transport
    frame += bytes(max(60 - len(frame), -len(frame) % 4))
    return Whole(address.version, frame, _sum(network), int.from_bytes(word))


def udp(source_port: int, destination_port: int, payload: bytes) -> bytes:
    """A datagram without a checksum."""
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def tcp(source_port: int, destination_port: int, flags: int) -> bytes:
    """A segment without data; its checksum is wrong."""
    return struct.pack("!HHIIBBHHH", source_port, destination_port, 1, 0, 5 << 4, flags, 1024, 0, 0)


def _end(address: str) -> int:
    return int.from_bytes(ipaddress.ip_address(address).packed[-4:])


def _without_end(address: bytes) -> bytes:
    """An address without its last four bytes, which the program enters."""
    return address[:-4] + bytes(4)


def datagram(
    to_mac: bytes, source: str, destination: str, source_port: int, destination_port: int, payload: bytes
) -> bytes:
    """A whole frame of UDP over IPv4, checksums included."""
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
    length = 8 + len(payload)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, _UDP, 0) + addresses
    head = head[:10] + _complement(_sum(head)) + head[12:]
    udp = struct.pack("!HHHH", source_port, destination_port, length, 0)
    pseudo = addresses + struct.pack("!HH", _UDP, length)
    check = _complement(_sum(pseudo + udp + payload + bytes(len(payload) % 2)))
    return to_mac + bytes(6) + b"\x08\x00" + head + udp[:6] + check + payload


def arrived(frame: bytes) -> Arrived:
    """Read a frame that came to the sink. Raises JetplaneError when a checksum is wrong."""
    version = 4 if frame[12:14] == b"\x08\x00" else 6
    at, udp_at = _ADDRESS_AT[version], _UDP_AT[version]
    size = 4 if version == 4 else 16
    source, destination = (frame[offset : offset + size] for offset in at)
    length = struct.unpack_from("!H", frame, udp_at + 4)[0]
    datagram = frame[udp_at : udp_at + length]
    if version == 4 and _fold(_sum(frame[14:34])) != 0xFFFF:
        raise JetplaneError("bench: a packet arrived with a wrong IPv4 header checksum")
    pseudo = source + destination + struct.pack("!HH", _UDP, length)
    if len(datagram) != length or datagram[6:8] == b"\0\0" or _fold(_sum(pseudo + datagram)) != 0xFFFF:
        raise JetplaneError("bench: a packet arrived with a wrong UDP checksum")
    source_port, destination_port = struct.unpack_from("!HH", datagram)
    source_text, destination_text = (str(ipaddress.ip_address(raw)) for raw in (source, destination))
    return Arrived(source_text, destination_text, source_port, destination_port, frame[_TTL_AT[version]])


def _sum(data: bytes) -> int:
    """Sum of the 16-bit words as this (little-endian) machine loads them: RFC 1071, section 2 (B)."""
    return sum(struct.unpack(f"<{len(data) // 2}H", data))


def _complement(total: int) -> bytes:
    return (0xFFFF - _fold(total) or 0xFFFF).to_bytes(2, "little")


def _fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
