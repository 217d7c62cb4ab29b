"""Datagrams cut into fragments and put together again, by means that the code under test knows nothing of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.bpf.harness import Node, Result, Tc
from tests.bpf.nat_world import changed
from tests.bpf.packets import IPv6ExtHdrFragment, Packet, Raw, dissect, wire

HEADER = {4: 20, 6: 40}
SIZE = 512
IDENTIFICATION = 0x1234


def pieces(packet: Packet, size: int = SIZE, *, identification: int = IDENTIFICATION) -> list[Packet]:
    """The packet in fragments of `size` bytes of what follows its IP header, in their order."""
    whole = wire(packet, ethernet=False)
    payload = whole[HEADER[packet.version] :]
    return [
        piece(packet, start, payload[start : start + size], more=start + size < len(payload), id=identification)
        for start in range(0, len(payload), size)
    ]


def piece(packet: Packet, offset: int, payload: bytes, *, more: bool, id: int = IDENTIFICATION) -> Packet:
    """One fragment with the packet's IP header; `offset` in bytes, a multiple of eight."""
    whole, header = wire(packet, ethernet=False), packet.copy()
    header.remove_payload()
    if packet.version == 4:
        header.proto, header.id, header.flags, header.frag = whole[9], id, "MF" if more else "", offset // 8
        return header / Raw(payload)
    header.nh = 44
    return header / IPv6ExtHdrFragment(nh=whole[6], offset=offset // 8, m=int(more), id=id) / Raw(payload)


@dataclass(frozen=True, slots=True)
class Whole:
    """What a receiver makes of fragments."""

    source: str
    destination: str
    ttl: int
    identification: int
    payload: bytes


def rejoined(frames: Sequence[bytes]) -> Whole:
    """Put fragments together, in whatever order. Asserts that they are sound, of one datagram, and complete."""
    found: dict[int, tuple[bytes, bool]] = {}
    heads = set()
    for frame in frames:
        packet = dissect(frame).payload
        assert wire(_computed_anew(packet), ethernet=False) == frame[14:]
        if packet.version == 4:
            offset, more, number = packet.frag * 8, bool(packet.flags.MF), packet.id
            payload, ttl = frame[14 + 20 :], packet.ttl
        else:
            header = packet[IPv6ExtHdrFragment]
            offset, more, number = header.offset * 8, bool(header.m), header.id
            payload, ttl = frame[14 + 48 :], packet.hlim
        found[offset] = payload, more
        heads.add((packet.src, packet.dst, ttl, number))
    ((source, destination, ttl, number),) = heads
    whole = b""
    for offset in sorted(found):
        assert offset == len(whole), "a gap, or one over another"
        whole += found[offset][0]
    assert [more for _, (_, more) in sorted(found.items())] == [True] * (len(found) - 1) + [False]
    return Whole(source, destination, ttl, number, whole)


def _computed_anew(packet: Packet) -> Packet:
    """A copy without what scapy computes: lengths, and IPv4's header checksum."""
    copy: Packet = packet.copy()
    if copy.version == 4:
        del copy.len, copy.chksum
    else:
        del copy.plen
    return copy


def expect(frames: Sequence[bytes], packet: Packet, **ends: Any) -> Whole:
    """Assert that the fragments make the packet with other ends, a hop less, right in every checksum; return it.

    `ends` are `source` and `destination`, each an address and port.
    """
    whole, wanted = rejoined(frames), changed(packet, **ends)
    assert (whole.source, whole.destination) == (wanted.src, wanted.dst)
    assert whole.ttl == (wanted.ttl if wanted.version == 4 else wanted.hlim)
    assert whole.payload == wire(wanted, ethernet=False)[HEADER[wanted.version] :]
    return whole


def through(node: Node, program: str, parts: Sequence[Packet], **context: int) -> list[bytes]:
    """Send fragments one after the other; assert that each is redirected; return them as they left."""
    return [redirected(node, program, part, **context).output for part in parts]


def redirected(node: Node, program: str, packet: Packet, **context: int) -> Result:
    """Send one packet; assert that it is redirected."""
    result = node.run(program, wire(packet), **context)
    assert Tc(result.verdict) is Tc.REDIRECT, f"counted: {dict(result.counted)}"
    return result


def external_port(frames: Sequence[bytes]) -> int:
    """The source port, or ICMP identifier, in the first of the fragments, wherever it stands."""
    for frame in frames:
        packet = dissect(frame).payload
        if packet.version == 4 and packet.frag == 0:
            start, number = frame[34:], packet.proto
        elif packet.version == 6 and packet[IPv6ExtHdrFragment].offset == 0:
            start, number = frame[62:], packet[IPv6ExtHdrFragment].nh
        else:
            continue
        at = 4 if number in (1, 58) else 0
        return int.from_bytes(start[at : at + 2])
    raise AssertionError("no first fragment")
