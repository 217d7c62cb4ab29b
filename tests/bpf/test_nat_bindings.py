"""Where external ports come from, how long a binding lives, and how all of it returns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Node
from tests.bpf.nat_world import (
    CLOSING,
    ESTABLISHED,
    EXIT,
    EXIT_2,
    FAMILIES,
    FIN_IN,
    FIN_OUT,
    INNER,
    INNER_2,
    OPENING,
    PEER,
    PROTOCOLS,
    RESET,
    Life,
    add_peer,
    answer,
    change_peer,
    consistent,
    is_dropped,
    is_prohibited,
    out_packet,
    prepare,
    rewrite_life,
    send_in,
    send_out,
    slot_of,
    slots,
    sweep,
)
from tests.bpf.packets import wire

pytestmark = pytest.mark.parametrize("version", FAMILIES)
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)

PORTS_PER_BLOCK = 64
TICK_S = (1 << 30) / 1e9
TIMEOUT_S = {"udp": 300, "icmp": 60, "tcp": 240}


@pytest.fixture
def world(node: Node) -> Node:
    return prepare(node)


@pytest.fixture
def make_world(make_node: NodeFactory) -> Callable[..., Node]:
    def make(**nat: Any) -> Node:
        node = make_node(source="nat.bpf.c", nat={"max_bindings": 4096, "max_remotes": 4096, **nat})
        node.reset()
        return prepare(node)

    return make


def fill(node: Node, version: int, protocol: str, count: int, *, first: int = 2000) -> list[int]:
    """Make `count` bindings of one subscriber; return their external ports."""
    return [send_out(node, out_packet(version, protocol, sport=first + n)) for n in range(count)]


@every_protocol
def test_a_subscriber_s_ports_come_from_whole_blocks(world: Node, version: int, protocol: str) -> None:
    ports = fill(world, version, protocol, PORTS_PER_BLOCK)
    assert len({port // PORTS_PER_BLOCK for port in ports}) == 1
    assert len(set(ports)) == PORTS_PER_BLOCK
    assert ports != sorted(ports), "ports are in order"

    ports += fill(world, version, protocol, 1, first=3000)
    assert len({port // PORTS_PER_BLOCK for port in ports}) == 2
    assert min(ports) >= 1024
    assert consistent(world) == PORTS_PER_BLOCK + 1


@every_protocol
def test_every_port_of_the_quota_serves_and_no_more(
    make_world: Callable[..., Node], version: int, protocol: str
) -> None:
    world = make_world(block_quota=3)
    ports = fill(world, version, protocol, 3 * PORTS_PER_BLOCK)

    assert len(set(ports)) == 3 * PORTS_PER_BLOCK
    is_prohibited(world, out_packet(version, protocol, sport=1999))
    send_out(world, out_packet(version, protocol, source=INNER_2[version], sport=1999))
    send_out(world, out_packet(version, protocol, sport=2000))
    assert consistent(world) == 3 * PORTS_PER_BLOCK + 1


def test_blocks_are_drawn_by_chance(world: Node, version: int) -> None:
    """RFC 6056: 100 subscribers' first blocks are spread over the pool."""
    blocks = set()
    for number in range(40):
        address = f"10.64.50.{number}" if version == 4 else f"fd00::50:{number:x}"
        add_peer(world, 10 + number, [address])
        blocks.add(send_out(world, out_packet(version, "udp", source=address)) // PORTS_PER_BLOCK)

    assert len(blocks) == 40
    assert len({block // 64 for block in blocks}) > 8, "few words of the pool are drawn from"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_system_ports_stay_system_ports(world: Node, version: int, protocol: str) -> None:
    """RFC 4787, REQ-3a; port 0 is none, and no subscriber has them all."""
    limit = 64
    ports = [send_out(world, out_packet(version, protocol, sport=n)) for n in range(limit)]

    assert len(set(ports)) == limit
    assert min(ports) > 0 and max(ports) < 1024
    is_prohibited(world, out_packet(version, protocol, sport=1023))
    send_out(world, out_packet(version, protocol, source=INNER_2[version], sport=1023))
    assert send_out(world, out_packet(version, protocol, sport=1024)) >= 1024
    assert consistent(world) == limit + 2


def test_an_icmp_identifier_is_of_no_class(world: Node, version: int) -> None:
    for identifier in (0, 1, 1023, 1024, 65535):
        port = send_out(world, out_packet(version, "icmp", sport=identifier))
        assert port >= 1024
        send_in(world, answer(version, "icmp", port), (INNER[version], identifier))


@every_protocol
def test_a_reserved_block_is_never_drawn(world: Node, version: int, protocol: str) -> None:
    """The controller takes the blocks that hold the node's own ports out of the pools."""
    pool = world.maps["pools"].value()
    pool.taken[:] = [(1 << 64) - 1] * 16
    pool.taken[0] &= ~1
    pool.taken[9] &= ~(1 << 41)
    for index in range(12):
        world.maps["pools"].update(index, pool)

    ports = fill(world, version, protocol, PORTS_PER_BLOCK)
    assert {port // PORTS_PER_BLOCK for port in ports} == {9 * 64 + 41}
    is_prohibited(world, out_packet(version, protocol, sport=1999))
    if protocol != "icmp":
        ports = fill(world, version, protocol, 63, first=0)
        assert set(ports) == set(range(1, 64)), "port 0 is none"
        is_prohibited(world, out_packet(version, protocol, sport=1023))


@every_protocol
def test_a_binding_ends_when_its_time_is_over(world: Node, version: int, protocol: str) -> None:
    port = send_out(world, out_packet(version, protocol))
    slot = slot_of(version, protocol, port)
    almost = TIMEOUT_S[protocol]

    rewrite_life(world, slot, age=almost)
    send_in(world, answer(version, protocol, port, flags="A"), (INNER[version], 40000))
    assert sweep(world) == (0, 0, 1)
    rewrite_life(world, slot, age=3 * TICK_S)
    is_dropped(world, "nat_in", answer(version, protocol, port), "NO_BINDING")
    assert sweep(world) == (1, 1, 0)
    assert bytes(world.maps["bindings"].lookup(slot))[:18] == bytes(18)
    assert consistent(world) == 0


@pytest.mark.parametrize(
    ("state", "seconds"),
    [(OPENING, 240), (ESTABLISHED, 7440), (FIN_OUT, 7440), (FIN_IN, 7440), (CLOSING, 240), (RESET, 240)],
)
def test_a_tcp_binding_lives_as_long_as_its_state_says(world: Node, version: int, state: int, seconds: int) -> None:
    """RFC 5382, REQ-5; RFC 7857, section 2.1."""
    port = send_out(world, out_packet(version, "tcp"))
    slot = slot_of(version, "tcp", port)

    rewrite_life(world, slot, age=seconds, state=state)
    assert sweep(world) == (0, 0, 1)
    rewrite_life(world, slot, age=3 * TICK_S)
    assert sweep(world) == (1, 1, 0)


@every_protocol
def test_a_packet_from_inside_refreshes_and_one_from_outside_does_not(world: Node, version: int, protocol: str) -> None:
    """RFC 4787, REQ-6."""
    port = send_out(world, out_packet(version, protocol))
    slot = slot_of(version, protocol, port)
    rewrite_life(world, slot, age=50)
    old = Life.of(world, slot).tick

    send_in(world, answer(version, protocol, port), (INNER[version], 40000))
    assert Life.of(world, slot).tick == old
    send_out(world, out_packet(version, protocol))
    assert Life.of(world, slot).tick >= old + int(50 / TICK_S)


@every_protocol
def test_a_packet_from_outside_refreshes_when_configured(
    make_world: Callable[..., Node], version: int, protocol: str
) -> None:
    world = make_world(inbound_refresh=True)
    port = send_out(world, out_packet(version, protocol))
    slot = slot_of(version, protocol, port)
    rewrite_life(world, slot, age=50)
    old = Life.of(world, slot).tick

    send_in(world, answer(version, protocol, port), (INNER[version], 40000))
    assert Life.of(world, slot).tick >= old + int(50 / TICK_S)


@every_protocol
def test_an_idle_binding_met_by_a_packet_makes_room_for_a_new_one(world: Node, version: int, protocol: str) -> None:
    port = send_out(world, out_packet(version, protocol))
    slot = slot_of(version, protocol, port)
    before = Life.of(world, slot)
    rewrite_life(world, slot, age=10_000)

    result = world.run("nat_out", wire(out_packet(version, protocol)))

    assert (result.counted["BINDINGS_EXPIRED"], result.counted["BINDINGS_CREATED"]) == (1, 1)
    assert consistent(world) == 1
    (now,) = slots(world)
    assert now != slot or Life.of(world, now).sequence == before.sequence + 1


@every_protocol
def test_a_removed_subscriber_is_cut_off_at_once_and_swept(world: Node, version: int, protocol: str) -> None:
    port = send_out(world, out_packet(version, protocol))
    send_out(world, out_packet(version, protocol, source=INNER_2[version]))
    change_peer(world, PEER, tunnel_ifindex=0, generation=2)

    is_dropped(world, "nat_in", answer(version, protocol, port), "STALE_PEER")
    is_dropped(world, "nat_out", out_packet(version, protocol), "UNKNOWN_SOURCE")
    sweep(world)
    is_dropped(world, "nat_in", answer(version, protocol, port), "NO_BINDING")
    assert consistent(world) == 1


@every_protocol
def test_the_next_holder_of_an_index_inherits_nothing(world: Node, version: int, protocol: str) -> None:
    port = send_out(world, out_packet(version, protocol))
    change_peer(world, PEER, generation=2)

    is_dropped(world, "nat_in", answer(version, protocol, port), "STALE_PEER")
    new = send_out(world, out_packet(version, protocol))
    send_in(world, answer(version, protocol, new), (INNER[version], 40000))
    if new != port:
        is_dropped(world, "nat_in", answer(version, protocol, port), "NO_BINDING")
    assert consistent(world) == 1


@every_protocol
def test_the_next_holder_of_a_port_lets_in_none_of_the_last_one_s_remotes(
    world: Node, version: int, protocol: str
) -> None:
    """Also of those that did not fit into the binding."""
    prefix = "198.51.100." if version == 4 else "2001:db8:f::"
    for number in range(10, 20):
        port = send_out(world, out_packet(version, protocol, destination=f"{prefix}{number}"))
    pool = world.maps["pools"].value()
    pool.taken[:] = [(1 << 64) - 1] * 16
    change_peer(world, PEER, generation=2)
    sweep(world)
    block = slot_of(version, protocol, port) // PORTS_PER_BLOCK % 1024
    pool.taken[block // 64] &= ~(1 << block % 64)
    for index in range(12):
        world.maps["pools"].update(index, pool)
    mine = {send_out(world, out_packet(version, protocol, sport=n)): n for n in range(5000, 5064)}

    for number in range(10, 20):
        packet = answer(version, protocol, port, source=f"{prefix}{number}")
        is_dropped(world, "nat_in", packet, "FILTERED")
    send_in(world, answer(version, protocol, port), (INNER[version], mine[port]))


def test_blocks_of_a_former_exit_address_run_dry(world: Node, version: int) -> None:
    old = send_out(world, out_packet(version, "udp"))
    exits = type(world.maps["peers"].lookup(PEER).exit_index)(1, 3)
    change_peer(world, PEER, exit_index=exits, generation=2)

    port = send_out(world, out_packet(version, "udp"), exits=EXIT_2)
    send_in(world, answer(version, "udp", port, destination=EXIT_2[version]), (INNER[version], 40000))
    is_dropped(world, "nat_in", answer(version, "udp", old, destination=EXIT[version]), "NO_BINDING")
    assert sweep(world) == (0, 1, 1)
    assert consistent(world) == 1


def test_a_sweep_returns_only_what_is_empty(world: Node, version: int) -> None:
    ports = fill(world, version, "udp", PORTS_PER_BLOCK + 1)
    for port in ports[:PORTS_PER_BLOCK]:
        rewrite_life(world, slot_of(version, "udp", port), age=10_000)

    assert sweep(world) == (PORTS_PER_BLOCK, 1, 1)
    assert consistent(world) == 1
    send_in(world, answer(version, "udp", ports[-1]), (INNER[version], 2000 + PORTS_PER_BLOCK))
    assert sweep(world) == (0, 0, 1)


def test_a_subscriber_pays_for_each_packet_at_its_rate(world: Node, version: int) -> None:
    """At 100 bytes a second 1,000 bytes are paid for after ten seconds; up and down are two buckets."""
    change_peer(world, PEER, rate_up=100, rate_down=100)
    payload = bytes(1000 - (28 if version == 4 else 48))
    out = out_packet(version, "udp", payload=payload)
    now = time.monotonic_ns()
    back = answer(version, "udp", send_out(world, out), payload=payload)
    is_dropped(world, "nat_out", out, "RATE")
    send_in(world, back, (INNER[version], 40000))
    is_dropped(world, "nat_in", back, "RATE")

    peer = world.maps["peers"].lookup(PEER)
    for bucket in (peer.up, peer.down):
        assert 9 * 10**9 < bucket.paid_until_ns - now < 60 * 10**9
        bucket.paid_until_ns = now
    world.maps["peers"].update(PEER, peer)
    send_out(world, out)
    send_in(world, back, (INNER[version], 40000))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_parity_is_kept_while_there_are_such_ports_if_configured(
    make_world: Callable[..., Node], version: int, protocol: str
) -> None:
    """RFC 4787, REQ-4: best effort. Of a block that has no such port left, another one serves."""
    world = make_world(port_parity=True, block_quota=1)
    inner = [*range(2000, 2060, 2), *range(3001, 3061, 2), 0, 2, 1, 3, 443]
    for sport in inner:
        assert send_out(world, out_packet(version, protocol, sport=sport)) % 2 == sport % 2

    left = [send_out(world, out_packet(version, protocol, sport=4000 + 2 * n)) % 2 for n in range(4)]
    assert sorted(left) == [0, 0, 1, 1], "32 of a kind in a block of 64"
    is_prohibited(world, out_packet(version, protocol, sport=4009))
    send_out(world, out_packet(version, "icmp", sport=3))
    assert consistent(world) == len(inner) + 5
