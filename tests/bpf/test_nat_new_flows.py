"""A peer that begins flows faster than any person is slowed; one that only uses those it has is not."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Node, Tc
from tests.bpf.nat_world import (
    FAMILIES,
    INNER_2,
    PEER,
    PEER_2,
    is_dropped,
    out_packet,
    prepare,
    send_out,
    sweep,
)
from tests.bpf.packets import Packet, wire

RATE, BURST = 10, 20
FILTERS = ("endpoint-independent", "address", "address-and-port")


@pytest.fixture(params=FILTERS)
def world(make_node: NodeFactory, request: pytest.FixtureRequest) -> Node:
    """Ten flows a second, twenty at once."""
    limits = {"new_flows_per_second": RATE, "new_flows_burst": BURST}
    node = make_node(source="nat.bpf.c", nat={"filtering": request.param}, policy=limits)
    node.reset()
    return prepare(node)


def sites(version: int) -> Iterator[str]:
    return (f"198.51.100.{n}" if version == 4 else f"2001:db8:f::{n:x}" for n in itertools.count(1))


def by_source_port(version: int, protocol: str) -> Iterator[Packet]:
    return (out_packet(version, protocol, sport=2000 + n) for n in itertools.count())


def by_site(version: int, protocol: str) -> Iterator[Packet]:
    """As masscan does: all from one port."""
    return (out_packet(version, protocol, destination=site) for site in sites(version))


def by_port_of_a_site(version: int, protocol: str) -> Iterator[Packet]:
    """As nmap does."""
    return (out_packet(version, protocol, dport=1000 + n) for n in itertools.count())


def passed(node: Node, packets: Iterator[Packet], count: int) -> int:
    """How many of so many packets passed; all others must have been dropped for the one reason."""
    results = [node.run("nat_out", wire(packet)) for packet in itertools.islice(packets, count)]
    refused = [result for result in results if result.dropped]
    assert {(Tc(result.verdict), result.dropped) for result in refused} <= {(Tc.SHOT, "NEW_FLOWS")}
    return len(results) - len(refused)


Scan = Callable[[int, str], Iterator[Packet]]


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize(
    ("scan", "protocol"),
    [(by_source_port, "udp"), (by_source_port, "tcp"), (by_site, "tcp"), (by_site, "udp"), (by_port_of_a_site, "tcp")],
)
def test_a_scan_is_slowed_to_the_rate_after_its_burst(world: Node, version: int, scan: Scan, protocol: str) -> None:
    """But for UDP from one port under endpoint-independent filtering, where nobody remembers remotes."""
    began = time.monotonic()
    through = passed(world, scan(version, protocol), 100)
    seconds = time.monotonic() - began
    if world.config.nat.filtering == "endpoint-independent" and (scan, protocol) == (by_site, "udp"):
        assert through == 100
    else:
        assert BURST <= through <= BURST + 2 + RATE * seconds


def spend(node: Node) -> None:
    """Let PEER have begun flows for years ahead."""
    bucket = node.maps["new_flows"].value(paid_until_ns=1 << 62)
    node.maps["new_flows"].update(PEER, bucket)


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_flows_that_are_there_go_on_and_so_do_others(world: Node, version: int, protocol: str) -> None:
    flags = {"flags": "S"} if protocol == "tcp" else {}
    port = send_out(world, out_packet(version, protocol, **flags))
    spend(world)
    flags = {"flags": "A"} if protocol == "tcp" else {}
    for _ in range(5):
        assert send_out(world, out_packet(version, protocol, **flags)) == port

    is_dropped(world, "nat_out", out_packet(version, protocol, sport=41000), "NEW_FLOWS")
    send_out(world, out_packet(version, protocol, source=INNER_2[version], sport=41000))
    assert world.maps["new_flows"].lookup(PEER_2).paid_until_ns > 0


def test_a_refused_flow_costs_no_port(world: Node) -> None:
    spend(world)
    before = len(list(world.maps["endpoints"].items()))
    is_dropped(world, "nat_out", out_packet(4, "udp", sport=42000), "NEW_FLOWS")
    assert len(list(world.maps["endpoints"].items())) == before


def test_one_flow_costs_one_token(world: Node) -> None:
    """Its binding and its remote are new together."""
    for protocol in ("tcp", "udp"):
        world.maps["new_flows"].update(PEER, world.maps["new_flows"].value())
        before = time.monotonic_ns()
        send_out(world, out_packet(4, protocol, sport=43000))
        after = time.monotonic_ns()
        cost = 10**9 // RATE
        # The programs' clock is up to some milliseconds late.
        assert before + cost - 20_000_000 <= world.maps["new_flows"].lookup(PEER).paid_until_ns <= after + cost


def test_the_sweep_forgets_when_a_peer_began_its_last_flow(world: Node) -> None:
    spend(world)
    world.maps["new_flows"].update(PEER_2, world.maps["new_flows"].value(paid_until_ns=1))
    sweep(world)
    assert world.maps["new_flows"].lookup(PEER_2).paid_until_ns == 0
    assert world.maps["new_flows"].lookup(PEER).paid_until_ns == 1 << 62


def test_without_a_limit_nothing_is_kept(make_node: NodeFactory) -> None:
    node = make_node(source="nat.bpf.c")
    node.reset()
    prepare(node)
    assert passed(node, by_site(4, "tcp"), 100) == 100
    assert node.maps["new_flows"].lookup(PEER).paid_until_ns == 0
