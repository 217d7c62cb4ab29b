"""The guard, packet by packet: the verdict, the reason it is counted under, and that the packet stays as it was."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Iterator

import pytest

from jetplane import abi
from jetplane.dataplane import host
from jetplane.dataplane.links import packed
from jetplane.lab.waiting import slowness
from tests.bpf.conftest import NodeFactory
from tests.bpf.guard_packets import dropped, echo_request, passed, wireguard
from tests.bpf.guard_rows import CASES, CONVERSATIONS, DRAINED, LINK
from tests.bpf.guard_world import (
    BOUND,
    EXIT_OWN,
    LINK_LOCAL,
    NODE,
    SITE,
    WIREGUARD,
    bind,
    own,
    prepare,
    refill_echo,
    refill_looks,
    sockets,
)
from tests.bpf.harness import Case, Node, Result, Xdp, each
from tests.bpf.packets import ICMP, IP, UDP, ip, wire

COARSE = 6
"""CLOCK_MONOTONIC_COARSE of linux/time.h: the clock that the guard reads."""
SHORTEST = 14
"""Bytes: the kernel runs nothing on less than an Ethernet header."""
STRIDE = round(slowness())
"""1 where machines are real; an emulated one takes every so many-th of a long series."""


@pytest.fixture(scope="module")
def prepared(make_node: NodeFactory) -> Node:
    """The node of the rows."""
    node = make_node(source="guard.bpf.c")
    node.reset()
    prepare(node)
    return node


@pytest.fixture
def guarded(prepared: Node) -> Node:
    """The same, with tokens for ICMP echo on every CPU."""
    refill_echo(prepared)
    return prepared


@pytest.fixture(scope="module")
def conversing(prepared: Node) -> Iterator[Node]:
    """The same, with sockets of its own."""
    with sockets(prepared):
        yield prepared


@pytest.mark.parametrize("rows", each(CASES))
def test_a_packet_gets_its_verdict(guarded: Node, rows: tuple[Case, ...]) -> None:
    for row in rows:
        refill_echo(guarded)
        guarded.check("guard", row)


@pytest.mark.flaky(reruns=1)  # real sockets of a namespace, like those of tests/netns
@pytest.mark.parametrize("rows", each(CONVERSATIONS))
def test_the_nodes_own_sockets_open_the_way_for_their_answers_only(conversing: Node, rows: tuple[Case, ...]) -> None:
    for row in rows:
        refill_looks(conversing)
        conversing.check("guard", row)


def test_without_its_socket_no_answer_is_allowed(make_node: NodeFactory) -> None:
    lonely = make_node(source="guard.bpf.c", guard={"icmp_echo_per_second": 0})
    lonely.reset()
    prepare(lonely)
    for row in CONVERSATIONS:
        lonely.check("guard", dropped(row.name, "NOT_ALLOWED", row.packet))


def test_a_packet_cut_short_anywhere_in_its_headers_is_dropped_by_name(guarded: Node) -> None:
    for case in CASES:
        for length in range(SHORTEST, min(len(case.packet), 160), STRIDE):
            _assert_judged(guarded.run("guard", case.packet[:length]), case.packet[:length], f"{case.name}, {length}")


def test_an_ip_packet_that_ends_before_its_length_is_malformed(guarded: Node) -> None:
    for case in CASES:
        if case.verdict is not Xdp.PASS or case in LINK or "padding" in case.name:
            continue
        for length in {*range(SHORTEST, min(len(case.packet), 100), STRIDE), len(case.packet) - 1}:
            result = guarded.run("guard", case.packet[:length])
            assert result.dropped == "MALFORMED", f"{case.name}, {length}"


def test_whatever_comes_is_counted_once_and_left_as_it_is(guarded: Node) -> None:
    chance = random.Random(4)
    seen: set[str] = set()
    for _ in range(20_000 // STRIDE):
        packet = _mutate(chance)
        result = guarded.run("guard", packet)
        _assert_judged(result, packet, packet.hex())
        seen |= result.counted.keys()
    assert seen >= {"GUARD_PASSED", "MALFORMED", "FRAGMENT", "WIREGUARD_SHAPE", "NOT_ALLOWED", "NO_BINDING", "PROTOCOL"}


def _mutate(chance: random.Random) -> bytes:
    """A row's packet with a few bytes changed, cut, or grown; seldom two of them spliced."""
    packet = bytearray(chance.choice(CASES).packet)
    if chance.random() < 0.1:
        packet[chance.randrange(SHORTEST, len(packet) + 1) :] = chance.choice(CASES).packet[SHORTEST:]
    for _ in range(chance.randrange(5)):
        packet[chance.randrange(12, min(len(packet), 100))] = chance.choice((0, 1, 0xFF, chance.randrange(256)))
    if chance.random() < 0.2:
        del packet[chance.randrange(SHORTEST, len(packet) + 1) :]
    if chance.random() < 0.2:
        packet += chance.randbytes(chance.randrange(64))
    return bytes(packet)


def _assert_judged(result: Result, packet: bytes, what: str) -> None:
    """Passed or dropped, under one name, and nothing else counted."""
    assert list(result.counted.values()) == [1], f"{what}: {dict(result.counted)}"
    (name,) = result.counted
    wanted = Xdp.PASS if name == "GUARD_PASSED" else Xdp.DROP
    assert result.verdict == wanted, f"{what}: {name}"
    assert name == "GUARD_PASSED" or name in abi.drop_reasons()
    assert result.output == packet, what


def test_an_echo_costs_its_share_of_a_second(guarded: Node) -> None:
    before = time.clock_gettime_ns(COARSE)
    assert guarded.run("guard", wire(ip(SITE[4], NODE[4]) / echo_request(4))).counted == {"GUARD_PASSED": 1}
    after = time.clock_gettime_ns(COARSE)
    share = 1_000_000_000 // guarded.config.guard.icmp_echo_per_second
    words = guarded.cpu_values("echo_bucket", 0)
    (paid_until,) = {int.from_bytes(word, "little") for word in words} - {0}
    assert before + share <= paid_until <= after + share


@pytest.mark.parametrize("ahead_ms", [0, 40])
def test_a_short_burst_of_echo_passes(guarded: Node, ahead_ms: int) -> None:
    soon = time.clock_gettime_ns(COARSE) + ahead_ms * 1_000_000
    guarded.fill("echo_bucket", 0, soon.to_bytes(8, "little"))
    guarded.check("guard", passed("echo in a burst", ip(SITE[4], NODE[4]) / echo_request(4)))


def test_the_time_is_asked_for_once_a_tick(guarded: Node) -> None:
    """What is remembered is believed until the next tick, and no longer."""
    echo = ip(SITE[4], NODE[4]) / echo_request(4)
    far, tick = 1 << 62, 1 << 50
    guarded.fill("clock", 0, tick.to_bytes(8, "little") + far.to_bytes(8, "little"))
    guarded.check("guard", passed("echo", echo))
    assert {word[8:] for word in guarded.cpu_values("clock", 0)} > {far.to_bytes(8, "little")}, "asked for anew"
    (paid_until,) = {int.from_bytes(word, "little") for word in guarded.cpu_values("echo_bucket", 0)} - {0}
    assert paid_until < far


def test_a_rate_of_zero_refuses_every_echo(make_node: NodeFactory) -> None:
    silent = make_node(source="guard.bpf.c", guard={"icmp_echo_per_second": 0})
    silent.reset()
    prepare(silent)
    silent.check("guard", dropped("echo to a silent node", "ICMP_RATE", IP(src=SITE[4], dst=NODE[4]) / ICMP()))


def test_a_binding_that_ends_closes_its_port(guarded: Node) -> None:
    packet = IP(src=SITE[4], dst="203.0.113.10") / UDP(dport=BOUND)
    guarded.check("guard", passed("an answer", packet))
    slot = (0 * 3 + 1) * 65536 + BOUND
    guarded.maps["bindings"].update(slot, guarded.maps["bindings"].value())
    guarded.check("guard", dropped("too late", "NO_BINDING", packet))
    bind(guarded, 0, 1, BOUND)


def test_a_port_that_drains_takes_data_only(guarded: Node) -> None:
    guarded.maps["draining"].update(WIREGUARD, 1)
    try:
        for row in DRAINED:
            guarded.check("guard", row)
    finally:
        guarded.maps["draining"].delete(WIREGUARD)
    again = ip(SITE[4], NODE[4]) / UDP(dport=WIREGUARD) / wireguard(1, 148)
    guarded.check("guard", passed("a handshake when it no longer drains", again))


def test_an_address_that_is_taken_away_is_a_strangers(guarded: Node) -> None:
    echo = ip(SITE[6], NODE[6]) / echo_request(6)
    everything = (*NODE.values(), *EXIT_OWN.values(), LINK_LOCAL)
    own(guarded, *(address for address in everything if address != NODE[6]))
    guarded.check("guard", dropped("echo to a former address", "NOT_ALLOWED", echo))
    own(guarded, *everything)
    guarded.check("guard", passed("echo to the address again", echo))


def test_addresses_that_share_a_slot_are_told_apart(guarded: Node) -> None:
    """The hash is of their last word, so these differ in what it does not see."""
    sharing = [f"2001:db8:0:{n}::1" for n in (1, 2, 3)]
    assert len({host.own_slot(packed(address)) for address in sharing}) == 1
    try:
        for count in range(1, len(sharing)):
            own(guarded, *sharing[:count])
            for number, address in enumerate(sharing):
                packet = ip(SITE[6], address) / UDP(dport=WIREGUARD) / wireguard(4, 32)
                row = passed if number < count else functools.partial(dropped, reason="NOT_ALLOWED")
                guarded.check("guard", row(f"echo to {address}", packet=packet))
    finally:
        own(guarded, *NODE.values(), *EXIT_OWN.values(), LINK_LOCAL)


@pytest.mark.parametrize(
    ("exits", "known"),
    [
        ({"ipv4": ["203.0.113.10"], "ipv6": []}, ["203.0.113.10"]),
        ({"ipv4": [], "ipv6": ["2001:db8::a"]}, ["2001:db8::a"]),
        (
            {"ipv4": [f"203.0.113.{n}" for n in range(1, 5)], "ipv6": [f"2001:db8::{n:x}" for n in range(1, 5)]},
            ["203.0.113.1", "203.0.113.4", "2001:db8::1", "2001:db8::4"],
        ),
    ],
    ids=["only-ipv4", "only-ipv6", "four-of-each"],
)
def test_every_exit_address_has_its_own_bindings(
    make_node: NodeFactory, exits: dict[str, list[str]], known: list[str]
) -> None:
    node = make_node(source="guard.bpf.c", exit=exits)
    everything = [*exits["ipv4"], *exits["ipv6"]]
    for address in known:
        node.reset()
        bind(node, everything.index(address), 1, BOUND)
        for other in everything:
            packet = ip(SITE[6 if ":" in other else 4], other) / UDP(dport=BOUND)
            row = passed(other, packet) if other == address else dropped(other, "NO_BINDING", packet)
            node.check("guard", row)
