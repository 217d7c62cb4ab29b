"""Sends a part of the packets that a seed names, and holds each against the laws."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from jetplane import abi
from jetplane.dataplane.run import SkbContext, XdpContext, prog_test_run
from tests.bpf.fuzz import laws
from tests.bpf.fuzz.corpus import PORT, PORT_2, Corpus
from tests.bpf.fuzz.mutate import mutated
from tests.bpf.fuzz.reading import ETHERNET, WHOLE, faults, read
from tests.bpf.harness import Node, Tc, Xdp, inside
from tests.bpf.nat_world import (
    EXIT_INDEX,
    FAMILIES,
    INNER,
    INNER_2,
    PROHIBIT_MARK,
    PROTOCOLS,
    TUNNEL_IFINDEX,
    out_packet,
    prepare,
    send_out,
)
from tests.bpf.packets import sums_are_right

PART = 5000
"""Packets between two empty nodes: what a seed and a part name does not depend on the parts before."""
SHORTEST = {b"\x08\x00": 34, b"\x86\xdd": 54}
"""Bytes of a frame, by its type (net/bpf/test_run.c)."""
SAMPLED = 50
"""One in so many translated packets is shown to scapy."""


@dataclass(slots=True)
class Tally:
    packets: int = 0
    dropped: int = 0
    translated: int = 0
    sampled: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.packets += other.packets
        self.dropped += other.dropped
        self.translated += other.translated
        self.sampled += other.sampled
        self.failures += other.failures


class Campaign:
    """One node, one CPU."""

    def __init__(self, node: Node, seeds: Corpus, *, seed: int, careful: bool = False) -> None:
        self._node, self._seeds, self._seed, self._careful = node, seeds, seed, careful
        self._fd = {name: node.descriptor(name) for name in ("nat_out", "nat_in", "leak_guard", "guard")}
        self._plain, self._forwarded = SkbContext(), SkbContext(ingress_ifindex=TUNNEL_IFINDEX)
        self._tally = Tally()
        self._cpu = min(os.sched_getaffinity(0))

    def part(self, number: int) -> Tally:
        """Send one part; a part ends at its first failure. `careful`: the counters are read after every packet."""
        self._tally = tally = Tally()
        self._node.reset()
        settle(self._node)
        chance = Random(f"{self._seed}:{number}")
        before, packet, place, complaint = self._counted(), b"", 0, ""
        with inside(self._node.namespace):
            for place in range(PART):
                way = chance.choice(WAYS)
                packet = mutated(chance, way.seeds(self._seeds))
                complaint = way.send(self, packet)
                tally.packets += 1
                if not complaint and (self._careful or place == PART - 1):
                    counted = self._counted() - before
                    if counted != tally.dropped:
                        complaint = f"{tally.dropped} drops, {counted} counted by name"
                if complaint:
                    tally.failures.append(f"part {number}, packet {place}, {way.name}: {complaint}\n{packet.hex()}")
                    break
        return tally

    def send_out(self, packet: bytes) -> str:
        ran = self._skb("nat_out", packet)
        if complaint := laws.out(packet, ran[0], ran[1], ran[2]):
            return f"{complaint}\nafter: {ran[1].hex()}"
        if ran[0] != Tc.REDIRECT:
            return ""
        again = self._skb("leak_guard", ran[1], self._forwarded)
        if again[0] != Tc.OK or again[1] != ran[1]:
            return f"leak_guard stops or changes what nat_out sends\nafter: {ran[1].hex()}"
        return self._sample(packet, ran[1])

    def send_in(self, packet: bytes) -> str:
        guarded = prog_test_run(self._fd["guard"], packet, XdpContext(data_end=len(packet)))
        self._tally.dropped += guarded.verdict == Xdp.DROP
        if complaint := laws.guard(packet, guarded.verdict, guarded.packet):
            return f"guard: {complaint}"
        ran = self._skb("nat_in", packet)
        if complaint := laws.inbound(packet, ran[0], ran[1], ran[2]):
            return f"{complaint}\nafter: {ran[1].hex()}"
        return self._sample(packet, ran[1]) if ran[0] == Tc.REDIRECT else ""

    def send_own(self, packet: bytes) -> str:
        ran = self._skb("leak_guard", packet)
        complaint = laws.leak(packet, ran[0], ran[1])
        return f"{complaint}\nafter: {ran[1].hex()}" if complaint else ""

    def _skb(self, program: str, packet: bytes, context: SkbContext | None = None) -> tuple[int, bytes, int]:
        """Run a classifier: verdict, packet, mark. The kernel makes no skb of less than the IP header: none comes."""
        if len(packet) < SHORTEST.get(packet[12:14], 0):
            return Tc.SHOT, packet, 0
        ran = prog_test_run(self._fd[program], packet, context or self._plain)
        mark = int.from_bytes(ran.context[8:12], "little")
        self._tally.dropped += ran.verdict == Tc.SHOT or mark == PROHIBIT_MARK
        return ran.verdict, ran.packet, mark

    def _sample(self, before: bytes, after: bytes) -> str:
        """Ask scapy, now and then, whether what came right leaves right."""
        self._tally.translated += 1
        found = read(before, ETHERNET) if self._tally.translated % SAMPLED == 0 else None
        if found is None or found.fragment != WHOLE or faults(before, found) not in ((0, 0), (None, 0)):
            return ""
        self._tally.sampled += 1
        right = sums_are_right(after, protocol=found.protocol, transport=found.transport, end=found.end)
        return "" if right else f"scapy finds a wrong checksum\nafter: {after.hex()}"

    def _counted(self) -> int:
        """All drops by name on this CPU."""
        total = 0
        for key in range(len(abi.drop_reasons())):
            total += int.from_bytes(self._node.cpu_values("counters", key)[self._cpu], "little")
        return total


@dataclass(frozen=True, slots=True)
class Way:
    name: str
    seeds: Callable[[Corpus], tuple[bytes, ...]]
    send: Callable[[Campaign, bytes], str]


WAYS = (
    Way("out", lambda corpus: corpus.out, Campaign.send_out),
    Way("out", lambda corpus: corpus.out, Campaign.send_out),
    Way("in", lambda corpus: corpus.inbound, Campaign.send_in),
    Way("in", lambda corpus: corpus.inbound, Campaign.send_in),
    Way("own", lambda corpus: corpus.own, Campaign.send_own),
)


def settle(node: Node) -> None:
    """Two subscribers with a binding of each kind, at ports that do not hang on chance."""
    prepare(node)
    for version in FAMILIES:
        for protocol in PROTOCOLS:
            for source, port in ((INNER, PORT), (INNER_2, PORT_2)):
                _bind_at(node, version, protocol, source[version], port)


def _bind_at(node: Node, version: int, protocol: str, source: str, port: int) -> None:
    """Let a subscriber have a binding at this port: for a moment there is no other."""
    pool = EXIT_INDEX[version] * len(PROTOCOLS) + PROTOCOLS.index(protocol)
    index, bit = divmod(port, 64)
    taken, block = node.maps["pools"].lookup(pool), node.maps["blocks"].value()
    words = list(taken.taken)
    taken.taken[:] = [(1 << 64) - 1] * 16
    taken.taken[index // 64] &= ~(1 << index % 64)
    node.maps["pools"].update(pool, taken)
    block.used = (1 << 64) - 1 ^ 1 << bit
    node.maps["blocks"].update(pool * 1024 + index, block)
    assert send_out(node, out_packet(version, protocol, source=source, flags="S")) == port
    words[index // 64] |= 1 << index % 64
    taken.taken[:] = words
    node.maps["pools"].update(pool, taken)
    block = node.maps["blocks"].lookup(pool * 1024 + index)
    block.used = 1 << bit
    node.maps["blocks"].update(pool * 1024 + index, block)
