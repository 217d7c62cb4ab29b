"""What a subscriber hears when there is no port for it, how often, and that others go on (RFC 5508, REQ-8)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from jetplane import abi
from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Node, Tc
from tests.bpf.nat_world import (
    FAMILIES,
    INNER,
    INNER_2,
    NO_EXIT,
    PEER,
    PEER_2,
    PROHIBIT_MARK,
    PROTOCOLS,
    answer,
    consistent,
    is_dropped,
    is_prohibited,
    out_packet,
    prepare,
    send_in,
    send_out,
)
from tests.bpf.packets import wire

pytestmark = pytest.mark.parametrize("version", FAMILIES)
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)

PORTS = 64
"""One block: the whole quota here."""
RATE = abi.constants()["ANSWERS_PER_SECOND"]


@pytest.fixture
def world(make_node: NodeFactory) -> Node:
    node = make_node(source="nat.bpf.c", nat={"max_bindings": 4096, "max_remotes": 4096, "block_quota": 1})
    node.reset()
    return prepare(node)


def spend_quota(world: Node, version: int, protocol: str) -> list[int]:
    """Take every port that PEER may have; return them."""
    return [send_out(world, out_packet(version, protocol, sport=2000 + n)) for n in range(PORTS)]


def answers(world: Node, peer: int, **change: Any) -> Any:
    """A peer's bucket of answers; changed, if asked to."""
    entry = world.maps["peers"].lookup(peer)
    for name, value in change.items():
        setattr(entry.answers, name, value)
    world.maps["peers"].update(peer, entry)
    return entry.answers


@every_protocol
def test_beyond_its_quota_a_subscriber_is_told_and_others_go_on(world: Node, version: int, protocol: str) -> None:
    ports = spend_quota(world, version, protocol)

    is_prohibited(world, out_packet(version, protocol, sport=3000))

    send_out(world, out_packet(version, protocol, source=INNER_2[version], sport=3000))
    send_out(world, out_packet(version, protocol, sport=2000))
    send_in(world, answer(version, protocol, ports[0]), (INNER[version], 2000))
    assert consistent(world) == PORTS + 1


@every_protocol
def test_an_empty_pool_is_told_to_everyone_who_asks_and_live_bindings_go_on(
    world: Node, version: int, protocol: str
) -> None:
    port = send_out(world, out_packet(version, protocol))
    pools = list(world.maps["pools"].items())
    for index, pool in pools:
        pool.taken[:] = [(1 << 64) - 1] * 16
        world.maps["pools"].update(index, pool)

    for _ in range(PORTS - 1):
        send_out(world, out_packet(version, protocol, sport=5000 + _))
    is_prohibited(world, out_packet(version, protocol, sport=3000))
    is_prohibited(world, out_packet(version, protocol, source=INNER_2[version]))
    send_in(world, answer(version, protocol, port), (INNER[version], 40000))


@every_protocol
def test_without_an_exit_address_of_the_family_a_subscriber_is_told(world: Node, version: int, protocol: str) -> None:
    """So that a client with both families goes over to the other at once."""
    peer = world.maps["peers"].lookup(PEER)
    peer.exit_index[:] = (NO_EXIT, NO_EXIT)
    world.maps["peers"].update(PEER, peer)

    is_prohibited(world, out_packet(version, protocol), "NO_EXIT")


def test_answers_come_at_a_rate_and_beyond_it_there_is_silence(world: Node, version: int) -> None:
    """The drops are counted all the same; each subscriber has a rate of its own."""
    spend_quota(world, version, "udp")
    answers(world, PEER, paid_until_ns=time.monotonic_ns() + 10**9)

    for sport in range(3000, 3010):
        is_dropped(world, "nat_out", out_packet(version, "udp", sport=sport), "PORTS_EXHAUSTED")
    answers(world, PEER, paid_until_ns=0)
    is_prohibited(world, out_packet(version, "udp", sport=3000))
    assert answers(world, PEER_2).paid_until_ns == 0


def test_a_burst_of_refused_packets_causes_few_answers(world: Node, version: int) -> None:
    spend_quota(world, version, "udp")
    packet = wire(out_packet(version, "udp", sport=3000))
    began = time.monotonic_ns()
    results = [world.run("nat_out", packet) for _ in range(200)]
    seconds = (time.monotonic_ns() - began) / 1e9

    told = [result for result in results if Tc(result.verdict) is Tc.OK]
    assert {result.mark for result in told} == {PROHIBIT_MARK}
    assert 1 <= len(told) <= 4 + RATE * seconds
    assert all(result.dropped == "PORTS_EXHAUSTED" for result in results)


@pytest.mark.parametrize("given", [{"source": "stranger"}, {"destination": "own"}], ids=["nobody's", "to-the-node"])
def test_only_want_of_means_is_told(world: Node, version: int, given: dict[str, str]) -> None:
    """Who is nobody's peer, or sends where nobody may, hears nothing."""
    addresses: dict[str, Callable[[], str]] = {
        "stranger": lambda: "10.64.77.77" if version == 4 else "fd00::7777",
        "own": lambda: "192.0.2.1" if version == 4 else "2001:db8:0:1::1",
    }
    packet = out_packet(version, "udp", **{name: addresses[value]() for name, value in given.items()})
    result = world.run("nat_out", wire(packet))

    assert (Tc(result.verdict), result.mark) == (Tc.SHOT, 0)
