"""Makes wrong packets of right ones. All chance is the argument's, so that a seed names every packet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from tests.bpf.fuzz.reading import ETHERNET, repaired

SHORTEST = ETHERNET
"""Bytes: the kernel runs nothing on less than an Ethernet header."""
EXTENSIONS = (0, 43, 44, 60, 51, 135, 139, 0, 60, 44)
"""IPv6 extension headers; those that are walked over come twice."""
BORDERS = (0, 1, 2, 4, 5, 7, 8, 15, 16, 20, 40, 64, 127, 128, 254, 255)

Mutation = Callable[[Random, bytearray, Sequence[bytes]], bytearray]


def mutated(chance: Random, seeds: Sequence[bytes]) -> bytes:
    """A packet made from one of the seeds, or a seed as it is; half of them with right checksums."""
    packet = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3))):
        packet = chance.choice(MUTATIONS)(chance, packet, seeds)
    made = bytes(packet[:1600]).ljust(SHORTEST, b"\0")
    return repaired(made) if chance.random() < 0.5 else made


def flip_bits(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    for _ in range(chance.choice((1, 1, 2, 5))):
        bit = chance.randrange(min(len(packet), 100) * 8)
        packet[bit // 8] ^= 1 << bit % 8
    return packet


def set_byte(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    packet[chance.randrange(min(len(packet), 100))] = chance.choice(BORDERS)
    return packet


def truncate(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    del packet[chance.randrange(SHORTEST, len(packet) + 1) :]
    return packet


def truncate_soundly(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    """The IP length follows."""
    return _lengthened(truncate(chance, packet, seeds))


def append(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    packet += chance.randbytes(chance.randrange(1, 40))
    return packet if chance.random() < 0.5 else _lengthened(packet)


def lie_about_length(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    """Total or payload length, header length, UDP length, TCP data offset."""
    place = chance.choice((16, 18, 14, 38, 46, 58, 66))
    if place + 1 < len(packet):
        if place in (14, 46, 66):
            packet[place] = chance.getrandbits(8) if place != 14 else packet[14] & 0xF0 | chance.getrandbits(4)
        else:
            packet[place : place + 2] = chance.choice((chance.getrandbits(16), chance.getrandbits(6))).to_bytes(2)
    return packet


def spend_hops(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    place = 22 if _is_v4(packet) else 21
    if place < len(packet):
        packet[place] = chance.choice((0, 1, 2, 255))
    return packet


def fragment(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    offset = chance.choice((0x2000, 0x2000, 0x4000, 0x8000, 1, 0x2001, 0x1FFF, chance.getrandbits(16)))
    if _is_v4(packet):
        packet[20:22] = offset.to_bytes(2)
        return packet
    place = chance.choice((1, 0, 8, 9, offset)).to_bytes(2)
    return _insert_extension(packet, 44, bytes([packet[20] if len(packet) > 20 else 0, 0]) + place + b"abcd")


def soup_of_ip_options(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    if not _is_v4(packet) or len(packet) < 34:
        return packet
    words = chance.randrange(1, 11)
    packet[14] = 0x40 | 5 + words
    packet[34:34] = _soup(chance, words * 4)
    return _lengthened(packet)


def soup_of_tcp_options(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    at = 34 if _is_v4(packet) else 54
    if len(packet) < at + 20 or packet[23 if at == 34 else 20] != 6:
        return packet
    words = chance.randrange(1, 11)
    packet[at + 12] = 5 + words << 4
    packet[at + 13] |= chance.choice((2, 0))
    packet[at + 20 : at + 20] = _soup(chance, words * 4)
    return _lengthened(packet) if chance.random() < 0.7 else packet


def chain_extensions(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    for _ in range(chance.randrange(1, 8)):
        if _is_v4(packet) or len(packet) < 54:
            break
        kind = chance.choice(EXTENSIONS)
        units = chance.choice((0, 0, 0, 1, 2, 255 if chance.random() < 0.1 else 0))
        body = bytes([packet[20], units]) + chance.randbytes(6 + 8 * min(units, 3))
        if kind == 44:
            body = bytes([packet[20], 0]) + chance.choice((0, 1, 8)).to_bytes(2) + chance.randbytes(4)
        packet = _insert_extension(packet, kind, body)
    return packet


def splice(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    other = chance.choice(seeds)
    cut = chance.choice((14, 26, 34, 42, 54, 62, 74))
    return _lengthened(packet[:cut] + other[chance.choice((cut, 14, 34, 54)) :])


def quote(chance: Random, packet: bytearray, seeds: Sequence[bytes]) -> bytearray:
    """An ICMP error about another packet, in the packet's own IP header."""
    at = 34 if _is_v4(packet) else 54
    about = bytearray(chance.choice(seeds)[14:])
    for _ in range(chance.choice((0, 0, 1, 3))):
        about[chance.randrange(min(len(about), 64))] = chance.getrandbits(8)
    packet[23 if at == 34 else 20 : 24 if at == 34 else 21] = b"\x01" if at == 34 else b"\x3a"
    kind = chance.choice((3, 11, 12, 5, 4) if at == 34 else (1, 2, 3, 4, 100))
    header = bytes([kind, chance.randrange(6), 0, 0]) + chance.randbytes(4)
    return _lengthened(packet[:at] + header + about[: chance.choice((8, 20, 28, 40, 48, 60, 600))])


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, flip_bits, set_byte, truncate, truncate_soundly, append, lie_about_length, spend_hops, fragment,
    soup_of_ip_options, soup_of_tcp_options, chain_extensions, splice, quote,
)  # fmt: skip


def _is_v4(packet: bytearray) -> bool:
    return packet[12:14] == b"\x08\x00"


def _lengthened(packet: bytearray) -> bytearray:
    """With the IP length of what is there."""
    if _is_v4(packet) and len(packet) >= 18:
        packet[16:18] = (len(packet) - ETHERNET).to_bytes(2)
    elif len(packet) >= 54:
        packet[18:20] = (len(packet) - 54).to_bytes(2)
    return packet


def _insert_extension(packet: bytearray, kind: int, body: bytes) -> bytearray:
    if len(packet) < 54:
        return packet
    packet[20] = kind
    packet[54:54] = body
    return _lengthened(packet)


def _soup(chance: Random, size: int) -> bytes:
    pieces = (b"\x01", b"\x00", b"\x02\x04", b"\x02\x04\xff\xff", b"\x03\x03\x07", chance.randbytes(2))
    return b"".join(chance.choices(pieces, k=size))[:size]
