"""Time: what each timer means, what may refresh a binding, and what a sweep ends, forgets and costs."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from jetplane import abi
from jetplane.dataplane import batch
from jetplane.dataplane.links import packed
from jetplane.dataplane.node import sweep_remotes
from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Node, Xdp, inside
from tests.bpf.nat_world import (
    ACTIVE,
    CLOSING,
    ESTABLISHED,
    FAMILIES,
    FIN_IN,
    FIN_OUT,
    INNER,
    OPENING,
    OTHER,
    PEER,
    PROTOCOLS,
    RESET,
    TICK_NS,
    Life,
    answer,
    change_peer,
    is_dropped,
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

every_family = pytest.mark.parametrize("version", FAMILIES)
TICK_S = TICK_NS / 1e9


def make(make_node: NodeFactory, **nat: object) -> Node:
    node = make_node(nat={"max_bindings": 4096, "max_remotes": 4096, **nat})
    node.reset()
    return prepare(node)


@dataclass(frozen=True, slots=True)
class Timer:
    """A setting, a value for it that is no other's, and what it governs."""

    setting: str
    seconds: int
    protocol: str
    states: tuple[int, ...]


TIMERS = (
    Timer("udp_timeout", 500, "udp", (ACTIVE,)),
    Timer("icmp_timeout", 90, "icmp", (ACTIVE,)),
    Timer("tcp_established_timeout", 8000, "tcp", (ESTABLISHED, FIN_OUT, FIN_IN)),
    Timer("tcp_transitory_timeout", 260, "tcp", (OPENING,)),
    Timer("tcp_closing_timeout", 380, "tcp", (CLOSING, RESET)),
)


@every_family
@pytest.mark.parametrize("timer", TIMERS, ids=lambda timer: timer.setting)
def test_every_timer_is_a_setting_and_is_kept(make_node: NodeFactory, version: int, timer: Timer) -> None:
    """RFC 4787, RFC 5382, RFC 5508: REQ-5, REQ-5, REQ-2; RFC 7857, section 2.1. Never early, hardly late."""
    world = make(make_node, **{one.setting: one.seconds for one in TIMERS})
    for state in timer.states:
        port = send_out(world, out_packet(version, timer.protocol))
        slot = slot_of(version, timer.protocol, port)
        rewrite_life(world, slot, age=timer.seconds, state=state)
        assert sweep(world) == (0, 0, 1)
        send_in(world, answer(version, timer.protocol, port, flags="A"), (INNER[version], 40000))
        rewrite_life(world, slot, age=3 * TICK_S, state=state)
        is_dropped(world, "nat_in", answer(version, timer.protocol, port, flags="A"), "NO_BINDING")
        assert sweep(world) == (1, 1, 0)


@dataclass(frozen=True, slots=True)
class Inbound:
    """A packet from outside that has passed the filter; whether it may refresh where inbound packets do."""

    protocol: str
    state: int
    flags: str
    refreshes: bool

    def __str__(self) -> str:
        return f"{self.protocol}-{self.state}-{self.flags}"


INBOUND = (
    Inbound("udp", ACTIVE, "", True),
    Inbound("icmp", ACTIVE, "", True),
    Inbound("tcp", ESTABLISHED, "A", True),
    Inbound("tcp", ESTABLISHED, "FA", True),
    Inbound("tcp", FIN_OUT, "A", True),
    Inbound("tcp", FIN_IN, "A", True),
    Inbound("tcp", OPENING, "SA", True),
    Inbound("tcp", OPENING, "S", True),
    Inbound("tcp", OPENING, "A", False),
    Inbound("tcp", OPENING, "RA", False),
    Inbound("tcp", ESTABLISHED, "R", False),
    Inbound("tcp", FIN_OUT, "FA", False),
    Inbound("tcp", CLOSING, "A", False),
    Inbound("tcp", CLOSING, "S", False),
    Inbound("tcp", RESET, "A", False),
    Inbound("tcp", RESET, "S", False),
)


@every_family
@pytest.mark.parametrize("setting", [False, True], ids=["off", "on"])
@pytest.mark.parametrize("case", INBOUND, ids=str)
def test_a_packet_from_outside_refreshes_only_what_is_open_and_only_if_set(
    make_node: NodeFactory, version: int, setting: bool, case: Inbound
) -> None:
    """RFC 4787, REQ-6; RFC 7857, section 2. It passes all the same."""
    world = make(make_node, **({"inbound_refresh": True} if setting else {}))
    port = send_out(world, out_packet(version, case.protocol))
    slot = slot_of(version, case.protocol, port)
    rewrite_life(world, slot, age=40, state=case.state)
    before = Life.of(world, slot).tick

    send_in(world, answer(version, case.protocol, port, flags=case.flags), (INNER[version], 40000))

    refreshed = Life.of(world, slot).tick > before
    assert refreshed == (setting and case.refreshes)


@every_family
@pytest.mark.parametrize("setting", [False, True], ids=["off", "on"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_nobody_asked_for_changes_nothing(
    make_node: NodeFactory, version: int, setting: bool, protocol: str
) -> None:
    """Not a byte of the binding, and no other; silently. A SYN above all (RFC 5382, REQ-4): for more than six seconds,
    for ever, so the connection may still be opened from inside."""
    world = make(make_node, **({"inbound_refresh": True} if setting else {}))
    port = send_out(world, out_packet(version, protocol))
    slot = slot_of(version, protocol, port)
    rewrite_life(world, slot, age=40)
    before = bytes(world.maps["bindings"].lookup(slot))

    free = answer(version, protocol, 1024 + (port - 1023) % 64512, flags="S")
    strange = answer(version, protocol, port, source=OTHER[version], flags="S")
    for _ in range(3):
        is_dropped(world, "nat_in", strange, "FILTERED")
        is_dropped(world, "nat_in", free, "NO_BINDING")
        guarded = world.run("guard", wire(free))
        assert (Xdp(guarded.verdict), guarded.dropped) == (Xdp.DROP, "NO_BINDING")

    assert bytes(world.maps["bindings"].lookup(slot)) == before
    assert slots(world) == [slot]
    assert not list(world.maps["remotes"].items())
    if protocol == "tcp":
        send_out(world, out_packet(version, "tcp", destination=OTHER[version]))
        send_in(world, strange, (INNER[version], 40000))


def site(version: int, number: int) -> str:
    return f"198.51.100.{number}" if version == 4 else f"2001:db8:f::{number:x}"


def sweep_keys(node: Node) -> int:
    """Show every key of `remotes` to the sweep, as the controller does."""
    keys = b"".join(bytes(key) for key, _ in node.maps["remotes"].items())
    with inside(node.namespace):
        return sweep_remotes(node.descriptor("sweep_remotes"), keys)


@every_family
@pytest.mark.parametrize("end", ["idle", "revoked", "taken by another"])
def test_remotes_are_forgotten_with_their_binding_and_not_before(
    make_node: NodeFactory, version: int, end: str
) -> None:
    """Also those that did not fit into it; those of another binding stay."""
    world = make(make_node)
    for number in range(10, 40):
        port = send_out(world, out_packet(version, "udp", destination=site(version, number)))
        kept = send_out(world, out_packet(version, "udp", sport=999, destination=site(version, number)))
    assert len(list(world.maps["remotes"].items())) == 2 * 27
    assert sweep_keys(world) == 0, "all are of live bindings"

    slot = slot_of(version, "udp", port)
    if end == "idle":
        rewrite_life(world, slot, age=10_000)
        sweep(world)
    elif end == "revoked":
        change_peer(world, PEER, generation=2)
        sweep(world)
    else:
        rewrite_life(world, slot, age=10_000)
        sweep(world)
        binding, life = world.maps["bindings"].lookup(slot), Life.of(world, slot)
        binding.life = (life.sequence + 1) << 40 | ACTIVE << 32 | life.tick
        world.maps["bindings"].update(slot, binding)

    assert sweep_keys(world) == (54 if end == "revoked" else 27)
    assert sweep_keys(world) == 0
    if end != "revoked":
        for number in range(10, 40):
            send_in(world, answer(version, "udp", kept, source=site(version, number)), (INNER[version], 999))


@pytest.mark.parametrize("count", [1, 191, 192, 193, 1000])
def test_a_run_of_the_sweep_of_remotes_takes_what_it_is_given(make_node: NodeFactory, count: int) -> None:
    """Keys of a binding that never was; the last run gets fewer than the others."""
    world = make(make_node)
    keys = [struct.pack("=QII", number + 1, 77, 5) for number in range(count)]
    world.maps["remotes"].update_many((key, 1) for key in keys)
    assert sweep_keys(world) == count
    assert not list(world.maps["remotes"].items())


EXITS = 8
BLOCKS_OF_ONE = 32
MILLION = 1_000_000
PER_BLOCK = abi.constants()["PORTS_PER_BLOCK"]
PER_POOL = abi.constants()["BLOCKS_PER_POOL"]


@dataclass(frozen=True, slots=True)
class Filled:
    """Where a block of the large table is, and whose."""

    block: int
    peer: int
    first_port: int


def many_blocks(count: int) -> Iterator[Filled]:
    """As many blocks as asked for, spread over exit addresses and protocols; each peer has 32 of a protocol."""
    first = abi.constants()["SYSTEM_BLOCKS"]
    for number in range(count):
        pool, place = divmod(number, PER_POOL - first)
        yield Filled(
            pool * PER_POOL + first + place, number // BLOCKS_OF_ONE, 2000 + number % BLOCKS_OF_ONE * PER_BLOCK
        )


PORT = [number.to_bytes(2) for number in range(65536)]
CHUNK = 1000


def columns(filled: Filled, idle_ticks: int) -> tuple[bytes, bytes, bytes]:
    """Slots, endpoints and bindings of all ports of a block, as they lie in the maps."""
    pool, first = filled.block // PER_POOL, filled.block * PER_BLOCK
    address = packed(str(IPv4Address("10.64.0.2") + filled.peer))
    tick = (time.monotonic_ns() // TICK_NS - idle_ticks) & 0xFFFFFFFF  # the machine may be younger than that
    life = 1 << 40 | (OPENING if pool % 3 == 0 else ACTIVE) << 32 | tick
    rest = struct.pack("=HIIIQQQQ", 0, filled.peer, 1, 0, life, 0, 0, 0)
    protocol = bytes([pool % 3, 0])
    ports = PORT[filled.first_port : filled.first_port + PER_BLOCK]
    return (
        struct.pack(f"={PER_BLOCK}I", *range(first, first + PER_BLOCK)),
        b"".join([address + port + protocol for port in ports]),
        b"".join([address + port + rest for port in ports]),
    )


def write_bindings(node: Node, blocks: list[Filled], *, idle_ticks: int = 0) -> None:
    """Put the bindings of whole blocks into the two large maps."""
    for start in range(0, len(blocks), CHUNK):
        rows = [columns(filled, idle_ticks) for filled in blocks[start : start + CHUNK]]
        index, keys, values = (b"".join(column) for column in zip(*rows, strict=True))
        batch.update_batch(node.maps["bindings"].fd, index, values, 4, what="bindings")
        batch.update_batch(node.maps["endpoints"].fd, keys, index, 20, what="endpoints")


def write_owners(node: Node, blocks: list[Filled]) -> None:
    """And what goes with them into the small ones."""
    lists: dict[int, list[int]] = {}
    pools: dict[int, list[int]] = {}
    for filled in blocks:
        pool, place = divmod(filled.block, PER_POOL)
        lists.setdefault(filled.peer * 6 + pool % 3, []).append(filled.block + 1)
        pools.setdefault(pool, [0] * 16)[place // 64] |= 1 << place % 64
        node.maps["peers"].update(filled.peer, node.maps["peers"].value(tunnel_ifindex=1, generation=1))
    node.maps["blocks"].update_many((f.block, struct.pack("=QQ", f.peer + 1, (1 << 64) - 1)) for f in blocks)
    for key, held in lists.items():
        listed = node.maps["peer_blocks"].value()
        listed.slot[: len(held)] = held
        node.maps["peer_blocks"].update(key, listed)
    for key, words in pools.items():
        pool_value = node.maps["pools"].value()
        pool_value.taken[:] = words
        node.maps["pools"].update(key, pool_value)


def test_a_sweep_of_a_million_bindings_ends_exactly_the_dead_ones(make_node: NodeFactory) -> None:
    """A run looks at one block, so it is bounded whatever the table holds; what it costs is printed, not judged."""
    exits = {"ipv4": [f"203.0.113.{n + 10}" for n in range(EXITS)], "ipv6": []}
    node = make_node(
        source="nat.bpf.c",
        exit=exits,
        peers={"path": "/nowhere", "max": 1024},
        nat={"max_bindings": MILLION + 4096, "max_remotes": 4096, "tcp_established_timeout": 7440},
    )
    blocks = list(many_blocks(MILLION // PER_BLOCK))
    places = sum(node.maps[name].info.max_entries for name in ("blocks", "reuse_used"))

    def timed(what: str) -> tuple[int, int, int]:
        node.maps["sweep_cursor"].update(0, bytes(node.maps["sweep_cursor"].info.value_size))
        began = time.monotonic_ns()
        node.spin("sweep", bytes(14), repeat=places)
        took = time.monotonic_ns() - began
        print(f"{what}: {took / 1e6:.1f} ms a sweep of {places} blocks, {took / places:.0f} ns a block")
        end = node.maps["sweep_cursor"].lookup(0)
        return end.expired, end.released, end.live

    timed("nothing in it")
    write_owners(node, blocks)
    write_bindings(node, blocks)
    total = len(blocks) * PER_BLOCK
    assert timed("a million live bindings") == (0, 0, total)
    dead = blocks[::2]
    write_bindings(node, dead, idle_ticks=10_000)
    assert timed("every other block idle") == (len(dead) * PER_BLOCK, len(dead), total - len(dead) * PER_BLOCK)
    alive = {filled.block for filled in blocks[1::2]}
    named = {slot // PER_BLOCK for _, values in node.maps["endpoints"].chunks() for slot in values}
    assert named == alive
    assert timed("half a million live bindings") == (0, 0, len(alive) * PER_BLOCK)
