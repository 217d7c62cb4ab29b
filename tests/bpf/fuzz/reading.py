"""Reads packets without any code of the project's or scapy's, so that what it says of a checksum is a second opinion.

The one's complement sum of 16-bit words is the number that the bytes spell, modulo 65,535 (RFC 1071: 2^16 is 1 there):
Python divides long numbers faster than it adds short ones.
"""

from __future__ import annotations

from typing import NamedTuple

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
HOP_BY_HOP, FRAGMENT, DESTINATION = 0, 44, 60
ETHERNET = 14
CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}
WHOLE, FIRST, LATER = range(3)
"""Of what a packet may be: a fragment."""
QUOTED = 8
"""Bytes of the transport that an error is bound to carry (RFC 792)."""
ERRORS = {ICMP: (3, 11, 12), ICMPV6: (1, 2, 3, 4)}


class Headers(NamedTuple):
    """Where in a buffer a packet and its parts lie."""

    version: int
    start: int
    transport: int
    end: int
    protocol: int
    fragment: int
    identification: int = 0
    """Of a fragment: where its identification lies."""


def read(buffer: bytes, start: int, *, cut: bool = False) -> Headers | None:
    """The IP headers at `start`; None when they are not whole. `cut`: the packet may end before its length."""
    if len(buffer) - start < 20:
        return None
    if buffer[start] >> 4 == 4:
        transport = start + (buffer[start] & 15) * 4
        end = start + int.from_bytes(buffer[start + 2 : start + 4])
        offset = int.from_bytes(buffer[start + 6 : start + 8])
        fragment = LATER if offset & 0x1FFF else FIRST if offset & 0x2000 else WHOLE
        found = Headers(4, start, transport, end, buffer[start + 9], fragment, start + 4 if fragment else 0)
    elif buffer[start] >> 4 == 6 and len(buffer) - start >= 40:
        end = start + 40 + int.from_bytes(buffer[start + 4 : start + 6])
        found = Headers(6, start, start + 40, end, buffer[start + 6], WHOLE)
        found = _behind_extensions(buffer, found)
    else:
        return None
    if cut:
        found = found._replace(end=min(found.end, len(buffer)))
    least = start + (20 if found.version == 4 else 40)
    return found if least <= found.transport <= found.end <= len(buffer) else None


def _behind_extensions(buffer: bytes, found: Headers) -> Headers:
    at, protocol, fragment, identification = found.transport, found.protocol, WHOLE, 0
    while protocol in (HOP_BY_HOP, FRAGMENT, DESTINATION) and at + 8 <= len(buffer) and fragment != LATER:
        size = 8
        if protocol == FRAGMENT:
            offset = int.from_bytes(buffer[at + 2 : at + 4])
            fragment = LATER if offset & 0xFFF8 else FIRST if offset & 1 else fragment
            identification = at + 4
        else:
            size = (buffer[at + 1] + 1) * 8
        protocol, at = buffer[at], at + size
    return found._replace(transport=at, protocol=protocol, fragment=fragment, identification=identification)


def total(octets: bytes) -> int:
    """The one's complement sum of the words, modulo 65,535; an odd byte is the first of its word."""
    return int.from_bytes(octets if len(octets) % 2 == 0 else octets + b"\0") % 65535


def source(buffer: bytes, found: Headers) -> bytes:
    at = found.start + (12 if found.version == 4 else 8)
    return buffer[at : at + (4 if found.version == 4 else 16)]


def destination(buffer: bytes, found: Headers) -> bytes:
    at = found.start + (16 if found.version == 4 else 24)
    return buffer[at : at + (4 if found.version == 4 else 16)]


def hops(buffer: bytes, found: Headers) -> int:
    return buffer[found.start + (8 if found.version == 4 else 7)]


def is_error(buffer: bytes, found: Headers) -> bool:
    return (
        found.fragment == WHOLE
        and found.protocol == (ICMP if found.version == 4 else ICMPV6)
        and found.end - found.transport >= 8
        and buffer[found.transport] in ERRORS[found.protocol]
    )


def embedded(buffer: bytes, found: Headers) -> Headers | None:
    """The packet inside an ICMP error."""
    if not is_error(buffer, found):
        return None
    inside = read(buffer[: found.end], found.transport + 8, cut=True)
    return inside if inside and inside.version == found.version else None


def faults(buffer: bytes, found: Headers) -> tuple[int | None, int | None]:
    """How far the IP header's and the transport's checksum are from right: 0 when they are; None when there is none.

    Whoever changes a packet and its checksums along must leave both as they were, also where they are wrong.
    """
    start, transport, protocol = found.start, found.transport, found.protocol
    header = total(buffer[start:transport]) if found.version == 4 else None
    place = CHECKSUM_AT.get(protocol)
    if place is None or found.fragment == LATER or found.end < transport + place + 2:
        return header, None
    if protocol == UDP and buffer[transport + 6 : transport + 8] == b"\0\0":
        return header, None
    words = total(buffer[transport : found.end])
    if protocol != ICMP:
        # The pseudo-header: addresses, length, protocol.
        words += total(buffer[start + 12 : start + 20] if found.version == 4 else buffer[start + 8 : start + 40])
        words += found.end - transport + protocol
    return header, words % 65535


def repaired(packet: bytes) -> bytes:
    """The frame with right checksums, as far as they can be told."""
    buffer = bytearray(packet)
    found = read(packet, ETHERNET)
    if found is None:
        return packet
    if found.version == 4:
        _write(buffer, found.start + 10, found.start, found, pseudo=False, end=found.transport)
    place = CHECKSUM_AT.get(found.protocol)
    if place is not None and found.fragment == WHOLE and found.end >= found.transport + place + 2:
        _write(buffer, found.transport + place, found.transport, found, pseudo=found.protocol != ICMP, end=found.end)
    return bytes(buffer)


def _write(buffer: bytearray, at: int, start: int, found: Headers, *, pseudo: bool, end: int) -> None:
    buffer[at : at + 2] = b"\0\0"
    words = total(bytes(buffer[start:end]))
    if pseudo:
        addresses = (found.start + 12, found.start + 20) if found.version == 4 else (found.start + 8, found.start + 40)
        words += total(bytes(buffer[slice(*addresses)])) + found.end - found.transport + found.protocol
    buffer[at : at + 2] = ((65535 - words % 65535) % 65535 or 65535).to_bytes(2)
