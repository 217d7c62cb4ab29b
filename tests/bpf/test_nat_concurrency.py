"""Both CPUs at once on the same subscribers: no port is ever two bindings', and none is lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from jetplane.dataplane.links import packed
from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Node
from tests.bpf.nat_world import (
    EXIT,
    FAMILIES,
    PEER,
    PEER_2,
    change_peer,
    consistent,
    out_packet,
    prepare,
    reused,
    sweep,
)
from tests.bpf.packets import wire

SECONDS = 2
HOPS = 250


def together(*jobs: Callable[[], None]) -> None:
    """Run the jobs over and over, each in a thread bound to a CPU, until the time is over."""
    end = time.monotonic() + SECONDS
    cpus = sorted(os.sched_getaffinity(0))
    failures: list[BaseException] = []

    def repeat(job: Callable[[], None], cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        try:
            while time.monotonic() < end and not failures:
                job()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=repeat, args=(job, cpus[n % len(cpus)])) for n, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_allocation_sweep_and_revocation_at_once_stay_consistent(node: Node, version: int, protocol: str) -> None:
    hammer(node, version, protocol)


@pytest.mark.parametrize("version", FAMILIES)
def test_reused_ports_stay_consistent_too(make_node: NodeFactory, version: int) -> None:
    """One block of their own is all that subscribers have, so most connections share a port."""
    settings = {"tcp_reuse": True, "tcp_reuse_flows": 4096, "tcp_reuse_quota": 4000, "block_quota": 1}
    node = make_node(source="nat.bpf.c", nat={"max_bindings": 4096, "max_remotes": 4096, **settings})
    node.reset()
    before = node.counters()["PORTS_REUSED"]
    hammer(node, version, "tcp")
    assert node.counters()["PORTS_REUSED"] - before > 100


def hammer(node: Node, version: int, protocol: str) -> None:
    """A packet whose translated source is a subscriber again makes a chain of new bindings as fast as the CPU can:
    each run of the program begins with what the last one left. Both CPUs follow the same chain."""
    prepare(node)
    node.maps["addresses"].update(packed(EXIT[version]), PEER)
    generations = {PEER: 1, PEER_2: 1}

    def allocate() -> None:
        for sport in (40000, 999):
            packet = wire(out_packet(version, protocol, sport=sport, ttl=255, flags="A"))
            node.spin("nat_out", packet, repeat=HOPS)

    def revoke() -> None:
        for peer in generations:
            generations[peer] += 1
            change_peer(node, peer, generation=generations[peer])
            time.sleep(0.002)

    def clear() -> None:
        node.spin("sweep", bytes(14), repeat=2000)

    before = node.counters()
    together(allocate, allocate, clear, revoke)

    counted = {name: n - before[name] for name, n in node.counters().items()}
    assert counted["BINDINGS_CREATED"] > 100 and counted["BLOCKS_CLAIMED"] > 0
    consistent(node)
    reused(node)
    for peer in generations:
        change_peer(node, peer, generation=generations[peer] + 1)
    sweep(node)
    assert (consistent(node), reused(node)) == (0, 0)
    assert not any(any(values) for _, values in node.maps["peer_blocks"].raw_chunks())
