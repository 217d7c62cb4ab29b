"""One greedy peer among fifty: the others lose nothing to it, whatever it sends."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest

from tests.bpf.harness import Node
from tests.bpf.nat_world import FAMILIES, INNER, add_peer, answer, change_peer, out_packet, prepare, send_out
from tests.bpf.packets import Packet, wire

PEERS = range(10, 60)
GREEDY = PEERS[0]
RATE = 1_000_000
"""Bytes per second, of everybody."""
SIZE, PACKETS = 1200, 5
"""What each of the others sends: a part of its burst of 50 ms, so that no clock decides whether it passes."""
SPENT = 1 << 62
"""A bucket's word after whatever could be sent at line rate."""

pytestmark = pytest.mark.parametrize("version", FAMILIES)


@pytest.fixture
def world(node: Node, version: int) -> Node:
    prepare(node)
    for index in PEERS:
        add_peer(node, index, [inner(version, index)])
    return node


def inner(version: int, index: int) -> str:
    return str(ip_address(INNER[version]) + 100 + index)


def leaving(version: int, index: int) -> Packet:
    return out_packet(version, "udp", source=inner(version, index), payload=bytes(SIZE))


def offer(node: Node, program: str, frames: dict[int, bytes]) -> Counter[int]:
    """How many packets of each peer passed. Between any two of the others, greed."""
    passed: Counter[int] = Counter()
    for index in PEERS:
        change_peer(node, index, rate_up=RATE, rate_down=RATE)
    peer = node.maps["peers"].lookup(GREEDY)
    peer.up.paid_until_ns = peer.down.paid_until_ns = SPENT
    node.maps["peers"].update(GREEDY, peer)
    for _ in range(PACKETS):
        for index in PEERS[1:]:
            for sender in (GREEDY, index):
                passed[sender] += node.run(program, frames[sender]).dropped != "RATE"
    return passed


@pytest.mark.parametrize("program", ["nat_out", "nat_in"])
def test_one_greedy_peer_takes_nothing_from_forty_nine_others(world: Node, version: int, program: str) -> None:
    ports = {index: send_out(world, leaving(version, index)) for index in PEERS}
    if program == "nat_out":
        frames = {index: wire(leaving(version, index)) for index in PEERS}
    else:
        frames = {i: wire(answer(version, "udp", port, payload=bytes(SIZE))) for i, port in ports.items()}

    assert offer(world, program, frames) == {GREEDY: 0} | dict.fromkeys(PEERS[1:], PACKETS)
