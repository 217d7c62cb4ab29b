"""What must hold for every packet, right or wrong; each function returns what is broken, or ""."""

from __future__ import annotations

from jetplane import abi
from jetplane.dataplane.links import packed
from tests.bpf.fuzz.reading import (
    CHECKSUM_AT,
    ETHERNET,
    LATER,
    QUOTED,
    TCP,
    UDP,
    WHOLE,
    Headers,
    destination,
    embedded,
    faults,
    hops,
    is_error,
    read,
    source,
)
from tests.bpf.harness import Tc, Xdp
from tests.bpf.nat_world import EXIT, EXIT_2, INNER, INNER_2, NODE, PROHIBIT_MARK, TUNNEL

HANDOVER_MARK = abi.constants()["HANDOVER_MARK"]
SOURCE, DESTINATION = 12, 16


def _octets(*tables: dict[int, str]) -> frozenset[bytes]:
    """As they lie in a packet."""
    return frozenset(packed(a)[0 if v == 6 else 12 :] for table in tables for v, a in table.items())


EXITS, INNERS = _octets(EXIT, EXIT_2), _octets(INNER, INNER_2)
OWN = _octets(NODE)
MAY_LEAVE = EXITS | OWN | {bytes(4), bytes(16)}
TUNNELS = _octets(TUNNEL, {4: "10.65.0.1", 6: "fd01::1"})


def is_ip(packet: bytes) -> bool:
    return packet[12:14] in (b"\x08\x00", b"\x86\xdd")


def out(before: bytes, verdict: int, after: bytes, mark: int) -> str:
    """nat_out: what leaves leaves from an exit address; the stack gets what came."""
    if verdict == Tc.SHOT:
        return ""
    found = read(before, ETHERNET)
    if verdict == Tc.OK:
        if before != after:
            return "changed what the stack is to see"
        if mark in (HANDOVER_MARK, PROHIBIT_MARK):
            local = destination(before, _fixed(before)) in INNERS | OWN | TUNNELS
            return "gave the stack what it would take for its own" if local else ""
        link = not is_ip(before) or (found is not None and found.version == 6)
        to_node = found is not None and destination(before, found) in TUNNELS
        return "" if link or to_node else "let an untranslated packet pass"
    if verdict != Tc.REDIRECT or found is None:
        return f"verdict {verdict}"
    if source(after, found) not in EXITS:
        return "left with an inner source"
    turns = destination(before, found) in EXITS
    return _translated(before, after, found, SOURCE, hops_spent=0 if turns else 1)


def inbound(before: bytes, verdict: int, after: bytes, mark: int) -> str:
    """nat_in: what enters a tunnel is for a subscriber; so is what the stack is to answer for."""
    if verdict == Tc.SHOT or (before == after and verdict == Tc.OK):
        return ""
    found = read(before, ETHERNET)
    if found is None or verdict not in (Tc.OK, Tc.REDIRECT):
        return f"verdict {verdict}"
    if verdict == Tc.OK and mark != HANDOVER_MARK:
        return "changed what it does not hand over"
    if before == after and found.fragment == LATER:
        return ""  # it comes in again, in the hope that the first fragment has come by then
    if destination(after, found) not in INNERS:
        return "sent into a tunnel what is for no subscriber"
    return _translated(before, after, found, DESTINATION, hops_spent=int(verdict == Tc.REDIRECT))


def leak(before: bytes, verdict: int, after: bytes) -> str:
    """leak_guard: nothing leaves but from an address that is the node's; only errors are touched."""
    if verdict == Tc.SHOT or not is_ip(before):
        return "" if verdict == Tc.SHOT or before == after else "changed what it does not know"
    found = read(before, ETHERNET)
    start = _fixed(before)
    sender = source(before, start)
    if sender not in MAY_LEAVE and not (start.version == 6 and sender[0] == 0xFE and sender[1] & 0xC0 == 0x80):
        return "let an inner source leave"
    # As the node's own stack makes them: without options or extension headers.
    plain = found and found.transport - found.start == (20 if found.version == 4 else 40)
    inside = embedded(after, found) if found and plain else None
    ported = inside and inside.protocol in (TCP, UDP) and inside.end - inside.transport >= QUOTED
    if inside and ported and inside.fragment == WHOLE and destination(after, inside) in INNERS:
        return "let an error tell the site of an inner address"
    if before == after:
        return ""
    if found is None or not is_error(before, found):
        return "changed what is no error"
    return _faults_differ(before, after, found)


def guard(before: bytes, verdict: int, after: bytes) -> str:
    """The guard looks only."""
    if verdict not in (Xdp.DROP, Xdp.PASS):
        return f"verdict {verdict}"
    return "" if before == after else "changed the packet"


def _fixed(packet: bytes) -> Headers:
    """Where the fixed IP header lies, whatever follows it."""
    return Headers(packet[ETHERNET] >> 4, ETHERNET, 0, 0, 0, 0)


def _translated(before: bytes, after: bytes, found: Headers, end: int, *, hops_spent: int) -> str:
    if len(before) != len(after):
        return "another length"
    if hops(before, found) - hops(after, found) != hops_spent:
        return f"{hops(before, found)} hops became {hops(after, found)}"
    changed = int.from_bytes(before) ^ int.from_bytes(after)
    if changed & ~_may_change(before, found, end):
        return "changed more than an end, a hop, and what follows from them"
    return _faults_differ(before, after, found)


def _faults_differ(before: bytes, after: bytes, found: Headers) -> str:
    """A right checksum stays right, and a wrong one wrong by as much, here and in the packet inside an error."""
    for what, where in (("", found), (" inside the error", embedded(before, found))):
        # Inside an error may be what says of itself that it has no ports: then there is nothing to be right.
        if where is None or (what and where.end - where.transport < QUOTED):
            continue
        were, are = faults(before, where), faults(after, where)
        if were != are:
            return f"checksums{what} (header, transport) were wrong by {were}, are by {are}"
    return ""


def _may_change(packet: bytes, found: Headers, end: int) -> int:
    """A mask of the bits that a translation of this end may touch."""
    mask = bytearray(len(packet))
    mask[found.start + (8 if found.version == 4 else 7)] = 0xFF
    _allow_end(mask, packet, found, end)
    if found.identification:
        size = 2 if found.version == 4 else 4
        mask[found.identification : found.identification + size] = b"\xff" * size
    if is_error(packet, found):
        mask[found.transport + 4 : found.transport + 8] = bytes(4)
        if inside := embedded(packet, found):
            _allow_end(mask, packet, inside, DESTINATION if end == SOURCE else SOURCE)
    elif found.protocol == TCP and found.fragment != LATER and packet[found.transport + 13] & 2:
        options = slice(found.transport + 20, found.transport + (packet[found.transport + 12] >> 4) * 4)
        mask[options] = b"\xff" * len(mask[options])
    return int.from_bytes(mask)


def _allow_end(mask: bytearray, packet: bytes, found: Headers, end: int) -> None:
    size, at = (4, end) if found.version == 4 else (16, 8 if end == SOURCE else 24)
    _allow(mask, found.start + at, size)
    if found.version == 4:
        _allow(mask, found.start + 10, 2)
    if found.fragment == LATER or found.protocol not in CHECKSUM_AT:
        return
    is_query = found.protocol not in (TCP, UDP)
    _allow(mask, found.transport + (4 if is_query else 0 if end == SOURCE else 2), 2)
    _allow(mask, found.transport + CHECKSUM_AT[found.protocol], 2)


def _allow(mask: bytearray, at: int, size: int) -> None:
    mask[at : min(at + size, len(mask))] = b"\xff" * (min(at + size, len(mask)) - at)
