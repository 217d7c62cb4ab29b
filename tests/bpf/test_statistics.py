"""What of a subscriber's traffic may count in figures that are released, and how much."""

from __future__ import annotations

import os
import threading
import time

import pytest

from jetplane import abi
from jetplane.dataplane import entries
from jetplane.dataplane.links import packed
from jetplane.dataplane.statistics import Statistics
from jetplane.model import InnerAddress, Rate
from jetplane.plan import Entry, EntryStep, RemoveEntry, SetEntry
from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Node
from tests.bpf.nat_world import (
    EXIT,
    EXIT_INDEX,
    FAMILIES,
    INNER_2,
    PEER,
    PEER_2,
    TUNNEL_IFINDEX,
    answer,
    change_peer,
    ends,
    out_packet,
    prepare,
    sweep,
)
from tests.bpf.packets import Packet, wire

CLIP = 1_000_000
EPOCHS = ("active", "volume")


@pytest.fixture
def world(make_node: NodeFactory) -> Node:
    """A node of design class D, in the first epoch of each kind."""
    node = make_node(source="nat.bpf.c", metrics={"design_peers": 1000, "up_clip_mb": 1, "down_clip_mb": 1})
    node.reset()
    turn(node, 1)
    return prepare(node)


def turn(node: Node, number: int) -> None:
    for epoch in EPOCHS:
        Statistics(node.maps).turn(epoch, number)


def sums(node: Node, number: int) -> dict[str, int]:
    return Statistics(node.maps).sums("active", number) | Statistics(node.maps).sums("volume", number)


def send(node: Node, packet: Packet) -> int:
    """Send a subscriber's packet; return the external port."""
    result = node.run("nat_out", wire(packet))
    assert result.counted["OUT_PACKETS"] == 1
    return ends(result.output)[0][1]


def receive(node: Node, packet: Packet) -> None:
    assert node.run("nat_in", wire(packet)).counted["IN_PACKETS"] == 1


NOTHING = {
    "active_peers": 0,
    "up_bytes": 0,
    "down_bytes": 0,
    "up_clipped_peers": 0,
    "down_clipped_peers": 0,
    "handshakes": 0,
}


@pytest.mark.parametrize("version", FAMILIES)
def test_the_bytes_of_a_peer_that_objects_are_told_apart(node: Node, version: int) -> None:
    """Class T is made of all bytes less these."""
    change_peer(prepare(node), PEER, statistics=0)
    packet = out_packet(version, "udp")
    out = node.run("nat_out", wire(packet))
    (_, port), _ = ends(out.output)
    back = node.run("nat_in", wire(answer(version, "udp", port)))
    assert out.counted["OBJECTED_OUT_BYTES"] == out.counted["OUT_BYTES"] == len(packet)
    assert back.counted["OBJECTED_IN_BYTES"] == back.counted["IN_BYTES"] == len(answer(version, "udp", port))


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_bytes_are_summed_up_by_direction_and_a_peer_is_active_once(world: Node, version: int, protocol: str) -> None:
    there = out_packet(version, protocol)
    port = send(world, there)
    send(world, there)
    back = answer(version, protocol, port)
    receive(world, back)
    assert sums(world, 1) == NOTHING | {"active_peers": 1, "up_bytes": 2 * len(there), "down_bytes": len(back)}
    send(world, out_packet(version, protocol, source=INNER_2[version]))
    assert sums(world, 1)["active_peers"] == 2


def test_a_peer_that_only_receives_is_not_active(world: Node) -> None:
    port = send(world, out_packet(4, "udp"))
    turn(world, 2)
    receive(world, answer(4, "udp", port))
    assert sums(world, 2) == NOTHING | {"down_bytes": len(answer(4, "udp", port))}


def test_what_is_dropped_counts_nowhere(world: Node) -> None:
    change_peer(world, PEER, rate_up=1)
    assert world.run("nat_out", wire(out_packet(4, "udp"))).counted["OUT_PACKETS"] == 1
    before = sums(world, 1)
    assert world.run("nat_out", wire(out_packet(4, "udp"))).dropped == "RATE"
    assert sums(world, 1) == before


@pytest.mark.parametrize("version", FAMILIES)
def test_no_more_than_the_clip_of_one_peer_counts(world: Node, version: int) -> None:
    """With several addresses or one; the other peer has a clip of its own."""
    packet = out_packet(version, "udp", payload=bytes(1200))
    port = send(world, packet)
    back = answer(version, "udp", port, payload=bytes(1200))
    world.maps["addresses"].update(packed("10.64.200.1"), PEER)
    other = out_packet(4, "udp", source="10.64.200.1", payload=bytes(1200))
    for _ in range(CLIP // 1200):
        send(world, packet)
        send(world, other)
        receive(world, back)
    assert sums(world, 1) == NOTHING | {
        "active_peers": 1,
        "up_bytes": CLIP,
        "down_bytes": CLIP,
        "up_clipped_peers": 1,
        "down_clipped_peers": 1,
    }
    second = out_packet(version, "udp", source=INNER_2[version])
    send(world, second)
    assert sums(world, 1)["up_bytes"] == CLIP + len(second)


def test_an_epoch_begins_at_zero_and_leaves_the_last_one_s_sums_alone(world: Node) -> None:
    packet = out_packet(4, "udp")
    for number in (2, 3, 4):
        for _ in range(number):
            send(world, packet)
        assert sums(world, number - 1) == NOTHING | {"active_peers": 1, "up_bytes": number * len(packet)}
        turn(world, number)
        assert sums(world, number) == NOTHING


def test_the_two_kinds_of_epoch_turn_by_themselves(world: Node) -> None:
    packet = out_packet(4, "udp")
    send(world, packet)
    Statistics(world.maps).turn("active", 2)
    send(world, packet)
    assert Statistics(world.maps).sums("active", 2) == {"active_peers": 1}
    assert Statistics(world.maps).sums("volume", 1)["up_bytes"] == 2 * len(packet)


def test_a_peer_that_objects_adds_nothing_while_others_do_and_takes_part_again_at_once(world: Node) -> None:
    change_peer(world, PEER, statistics=0)
    port = send(world, out_packet(4, "udp"))
    receive(world, answer(4, "udp", port))
    assert sums(world, 1) == NOTHING
    assert not any(bytes(world.maps["peer_statistics"].lookup(PEER)))
    other = out_packet(4, "udp", source=INNER_2[4])
    send(world, other)
    assert sums(world, 1) == NOTHING | {"active_peers": 1, "up_bytes": len(other)}
    change_peer(world, PEER, statistics=PEER + 1)
    send(world, out_packet(4, "udp"))
    assert sums(world, 1)["active_peers"] == 2


def test_an_entry_that_is_used_up_counts_from_the_next_epoch_on(world: Node) -> None:
    Statistics(world.maps).use_up([PEER])
    packet = out_packet(4, "udp")
    port = send(world, packet)
    receive(world, answer(4, "udp", port))
    assert sums(world, 1) == NOTHING
    turn(world, 2)
    send(world, packet)
    assert sums(world, 2) == NOTHING | {"active_peers": 1, "up_bytes": len(packet)}


def test_what_a_peer_used_is_forgotten_by_the_sweep_after_the_epoch(world: Node) -> None:
    """And counts for nothing: an idle peer's entry says what one says that was never used."""
    port = send(world, out_packet(4, "udp"))
    receive(world, answer(4, "udp", port))
    sweep(world)
    assert world.maps["peer_statistics"].lookup(PEER).up & 0xFFFF == len(out_packet(4, "udp")), "it is still needed"
    turn(world, 2)
    sweep(world)
    turn(world, 3)
    sweep(world)
    used = world.maps["peer_statistics"]
    assert bytes(used.lookup(PEER)) == bytes(used.lookup(PEER_2))
    assert sums(world, 3) == NOTHING
    packet = out_packet(4, "udp")
    send(world, packet)
    assert sums(world, 3) == NOTHING | {"active_peers": 1, "up_bytes": len(packet)}


def test_without_class_d_there_is_nothing_of_it_in_the_program(node: Node) -> None:
    turn(node, 1)
    send(prepare(node), out_packet(4, "udp"))
    assert sums(node, 1) == NOTHING
    assert node.maps["peer_statistics"].info.max_entries == 1


@pytest.mark.parametrize("transport", ["veth", "wireguard"])
def test_the_verifier_takes_it_beside_all_else_that_can_be_on(make_node: NodeFactory, transport: str) -> None:
    """Its paths multiply: what is counted must not be followed once for each way to it."""
    nat = {"max_bindings": 4096, "max_remotes": 4096, "tcp_reuse": True, "port_parity": True}
    node = make_node(source="nat.bpf.c", transport=transport, metrics={"design_peers": 1000}, nat=nat)
    assert node.maps["peer_statistics"].info.max_entries > 1


def test_each_slot_of_handshakes_is_entered_once(world: Node) -> None:
    statistics = Statistics(world.maps)
    assert statistics.add_handshakes(1, 100, 7)
    assert not statistics.add_handshakes(1, 100, 9)
    assert not statistics.add_handshakes(1, 99, 9)
    assert statistics.add_handshakes(1, 101, 2)
    assert sums(world, 1)["handshakes"] == 9
    assert statistics.handshakes(1).looks == 2
    turn(world, 2)
    assert sums(world, 2)["handshakes"] == 0
    assert sums(world, 1)["handshakes"] == 9


def test_both_cpus_at_once_never_count_more_than_the_clip(world: Node) -> None:
    """A packet whose translated source is the subscriber's again is forwarded 250 times in one run; both CPUs send
    it over and over, while epochs turn."""
    world.maps["addresses"].update(packed(EXIT[4]), PEER)
    packet = wire(out_packet(4, "udp", ttl=255, payload=bytes(1000)))
    world.spin("nat_out", packet, repeat=250)
    over, failures = threading.Event(), list[BaseException]()

    def forward(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        try:
            while not over.is_set():
                world.spin("nat_out", packet, repeat=250)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=forward, args=(cpu,)) for cpu in sorted(os.sched_getaffinity(0))[:2]]
    for thread in threads:
        thread.start()
    met, number, until = 0, 1, time.monotonic() + 2
    while time.monotonic() < until and not failures:
        time.sleep(0.01)
        number += 1
        turn(world, number)
        found = sums(world, number - 1)
        assert found["active_peers"] <= 1
        assert found["up_bytes"] <= CLIP
        assert found["up_clipped_peers"] <= (found["up_bytes"] == CLIP)
        met += found["up_clipped_peers"]
    over.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert met > 5, f"the clip was met in {met} of {number} epochs"


def test_the_names_of_the_sums_are_those_of_the_figures() -> None:
    from jetplane.metrics.noise import QUANTITIES

    assert {name.lower() for name in abi.quantities()} | {"handshakes"} == set(QUANTITIES)
    for name, quantity in QUANTITIES.items():
        assert (quantity.epoch == "active") == (name == "active_peers")


def test_attack_11_no_way_around_the_clip(world: Node) -> None:
    """At line rate, from many addresses of one key, and after the key was removed and added again by the controller's
    own steps. Where its endpoint is, no program of class D sees. The control: what such a peer really sent."""
    exits, packet = (EXIT_INDEX[4], EXIT_INDEX[6]), bytes(1400)
    addresses = [f"10.64.201.{n}" for n in range(1, 9)]
    entry = Entry(tuple(sorted(map(InnerAddress.parse, addresses))), TUNNEL_IFINDEX, exits, Rate(up=0, down=0))
    sent = 0

    def flood() -> None:
        nonlocal sent
        for address in addresses * (2 * CLIP // 1400 // len(addresses)):
            sent += world.run("nat_out", wire(out_packet(4, "udp", source=address, payload=packet))).counted[
                "OUT_BYTES"
            ]

    def steps(*what: EntryStep) -> None:
        entries.apply(world.maps["addresses"], world.maps["peers"], what, use_up=Statistics(world.maps).use_up)

    turn(world, 2)  # a new entry takes part from the next epoch on
    steps(SetEntry(PEER, entry))
    turn(world, 3)
    flood()
    steps(RemoveEntry(PEER))
    steps(SetEntry(PEER, entry))
    flood()
    assert sent > 3 * CLIP
    assert sums(world, 3) == NOTHING | {"active_peers": 1, "up_bytes": CLIP, "up_clipped_peers": 1}
