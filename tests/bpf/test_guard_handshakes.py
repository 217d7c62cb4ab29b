"""Handshake budgets: of a prefix, of all strangers, and who is no stranger."""

from __future__ import annotations

import ipaddress
import math
import os
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jetplane import abi
from jetplane.dataplane import host
from tests.bpf.conftest import NodeFactory
from tests.bpf.guard_packets import dropped, wireguard
from tests.bpf.guard_world import EXIT_OWN, NODE, WIREGUARD, prepare
from tests.bpf.harness import Node, Tc
from tests.bpf.packets import FRAME, UDP, ip

PER_PREFIX, STRANGERS = 1, 200
MONOTONIC_COARSE = 6  # linux/time.h
BURST = PER_PREFIX + 1
"""A second's worth at once, and the one that finds the bucket not yet beyond its burst."""


@pytest.fixture(scope="module")
def compiled(make_node: NodeFactory) -> Node:
    budgets = {"handshakes_per_second": PER_PREFIX, "stranger_handshakes_per_second": STRANGERS, "bogons": False}
    return make_node(guard=budgets)


@pytest.fixture
def budgeted(compiled: Node) -> Node:
    """A node that has seen nobody yet."""
    compiled.reset()
    prepare(compiled)
    return compiled


def message(source: str, kind: int = 1, length: int = 148) -> bytes:
    version = ipaddress.ip_address(source).version
    return bytes(FRAME / ip(source, NODE[version]) / UDP(sport=7, dport=WIREGUARD) / wireguard(kind, length))


def sent(destination: str, kind: int, length: int) -> bytes:
    """What the node's own WireGuard sends."""
    version = ipaddress.ip_address(destination).version
    return bytes(FRAME / ip(NODE[version], destination) / UDP(sport=WIREGUARD, dport=7) / wireguard(kind, length))


def offer(node: Node, *sources: str) -> Counter[str]:
    """How often which name was counted."""
    return offer_in_time(node, *sources)[0]


def offer_in_time(node: Node, *sources: str) -> tuple[Counter[str], float]:
    """The same, and the seconds it took. The packets are made beforehand: while they are, budgets grow."""
    total: Counter[str] = Counter()
    packets = [message(source) for source in sources]
    with one_cpu():
        began = time.monotonic()
        for packet in packets:
            total.update(node.run("guard", packet).counted)
        return total, time.monotonic() - began


@contextmanager
def one_cpu() -> Iterator[None]:
    """Each CPU has a budget of its own for strangers: stay on one."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def due(per_second: int, seconds: float) -> int:
    """The most that a budget gives in so many seconds; the coarse clock may be two ticks of 10 ms behind."""
    return per_second + 1 + math.ceil(per_second * (seconds + 0.02))


@pytest.mark.parametrize("source", ["198.18.0.9", "2a01:4:5:6::9"])
def test_a_prefix_has_its_budget_and_no_more(budgeted: Node, source: str) -> None:
    counted, seconds = offer_in_time(budgeted, *[source] * 500)
    assert BURST <= counted["GUARD_PASSED"] <= due(PER_PREFIX, seconds)
    assert counted["HANDSHAKE_BUDGET"] == 500 - counted["GUARD_PASSED"]
    late = [(line, let_rest(words, -60.0)) for line, words in budgets(budgeted)]
    budgeted.maps["handshake_budgets"].update_many(late)
    budgeted.check("guard", dropped("one more", "HANDSHAKE_BUDGET", message(source)))


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("198.18.0.9", "198.18.0.10", False),
        ("2a01:4:5:6::9", "2a01:4:5:6:7:8:9:a", True),
        ("2a01:4:5:6::9", "2a01:4:5:7::9", False),
    ],
)
def test_an_ipv6_host_shares_its_budget_with_its_64_alone(budgeted: Node, one: str, other: str, shared: bool) -> None:
    offer(budgeted, *[one] * 20)
    assert offer(budgeted, other) == {"HANDSHAKE_BUDGET" if shared else "GUARD_PASSED": 1}


def test_data_responses_and_cookies_spend_nothing(budgeted: Node) -> None:
    offer(budgeted, *["198.18.0.9"] * 20)
    for kind, length in ((2, 92), (3, 64), (4, 1452)):
        assert budgeted.run("guard", message("198.18.0.9", kind, length)).counted == {"GUARD_PASSED": 1}


def strangers(count: int, first: int = 0) -> list[str]:
    return [f"198.18.{n >> 8}.{n & 255}" for n in range(first, first + count)]


def test_strangers_together_have_a_budget(budgeted: Node) -> None:
    counted, seconds = offer_in_time(budgeted, *strangers(5 * STRANGERS))
    burst = STRANGERS // 20
    assert burst < counted["GUARD_PASSED"] <= due(STRANGERS, seconds) - STRANGERS + burst
    assert counted["HANDSHAKE_FLOOD"] == 5 * STRANGERS - counted["GUARD_PASSED"]


@pytest.mark.parametrize("source", ["198.18.0.9", "2a01:4:5:6::9"])
def test_who_comes_for_the_first_time_gets_in_where_who_comes_again_does_not(budgeted: Node, source: str) -> None:
    """Half a burst of the strangers' is for those alone who have been silent."""

    def offer_late() -> Counter[str]:
        """With more than half a burst spent, by the programs' clock; where that goes on too far, try again."""
        packet = message(source)
        while True:
            budgeted.maps["handshake_budgets"].update_many(saved)
            began = time.clock_gettime_ns(MONOTONIC_COARSE)
            budgeted.fill("handshake_bucket", 0, (began + 37_000_000).to_bytes(8, "little"))
            counted = Counter(budgeted.run("guard", packet).counted)
            if time.clock_gettime_ns(MONOTONIC_COARSE) - began <= 10_000_000:
                return counted

    saved = [(0, bytes(64))]
    assert offer_late() == {"GUARD_PASSED": 1}
    saved = budgets(budgeted)
    assert offer_late() == {"HANDSHAKE_FLOOD": 1}
    saved = [(line, let_rest(words, 5.0)) for line, words in saved]
    assert offer_late() == {"GUARD_PASSED": 1}, "five seconds later it may be a client's second attempt"


def budgets(node: Node) -> list[tuple[int, bytes]]:
    """The lines that have words in them."""
    return [(n, bytes(line)) for n, line in node.maps["handshake_budgets"].items() if any(line.word)]


def let_rest(words: bytes, seconds: float) -> bytes:
    """A line, as if so long had passed."""
    return b"".join(
        (word - (int(seconds * 1e9) >> 10) if word else 0).to_bytes(8, "little")
        for (word,) in struct.iter_unpack("=Q", words)
    )


def test_prefixes_that_have_rested_are_forgotten(budgeted: Node) -> None:
    offer(budgeted, *strangers(3))
    lines = [(line, let_rest(words, -60.0)) for line, words in budgets(budgeted)]
    budgeted.maps["handshake_budgets"].update_many(lines)
    sweep(budgeted)
    assert budgets(budgeted) == lines, "not yet"
    budgeted.maps["handshake_budgets"].update_many((line, let_rest(words, 71.0)) for line, words in lines)
    sweep(budgeted)
    assert budgets(budgeted) == []


def sweep(node: Node) -> None:
    constants = abi.constants()
    for _ in range(constants["BUDGET_LINES"] // constants["BUDGETS_SWEPT"]):
        node.run("sweep_budgets", bytes(14))


@pytest.mark.parametrize(("kind", "length"), [(2, 92), (4, 32), (4, 1452)])
@pytest.mark.parametrize("known", ["203.0.113.99", "2a01:4:5:6::9"])
def test_who_had_a_session_gets_in_while_strangers_flood(budgeted: Node, known: str, kind: int, length: int) -> None:
    assert budgeted.run("leak_guard", sent(known, kind, length)).verdict == Tc.OK
    spend_strangers(budgeted)
    budgeted.check("guard", dropped("a stranger", "HANDSHAKE_FLOOD", message("203.0.113.98")))
    assert offer(budgeted, known) == {"GUARD_PASSED": 1}
    assert offer(budgeted, *[known] * 20)["HANDSHAKE_BUDGET"] > 0, "its own budget holds"


@pytest.mark.parametrize("exit_address", [EXIT_OWN[4], EXIT_OWN[6]])
def test_a_session_counts_where_the_nodes_address_is_an_exit_address_as_well(budgeted: Node, exit_address: str) -> None:
    known = "203.0.113.99" if ":" not in exit_address else "2a01:4:5:6::9"
    packet = FRAME / ip(exit_address, known) / UDP(sport=WIREGUARD, dport=7) / wireguard(2, 92)
    assert budgeted.run("leak_guard", bytes(packet)).verdict == Tc.OK
    spend_strangers(budgeted)
    assert offer(budgeted, known) == {"GUARD_PASSED": 1}


def spend_strangers(node: Node) -> None:
    node.fill("handshake_bucket", 0, (1 << 62).to_bytes(8, "little"))


def test_a_cookie_makes_nobody_known(budgeted: Node) -> None:
    """Whoever asks under load is sent one, with whatever source it likes."""
    budgeted.run("leak_guard", sent("203.0.113.99", 3, 64))
    budgeted.run("leak_guard", bytes(FRAME / ip(NODE[4], "203.0.113.99") / UDP(sport=9, dport=7) / wireguard(4, 64)))
    spend_strangers(budgeted)
    assert offer(budgeted, "203.0.113.99") == {"HANDSHAKE_FLOOD": 1}


def test_a_known_source_is_forgotten_after_two_turns(budgeted: Node) -> None:
    halves, known = budgeted.maps["halves"], budgeted.maps["known_sources"]
    budgeted.run("leak_guard", sent("203.0.113.99", 2, 92))
    spend_strangers(budgeted)
    host.turn_known_sources(halves, known)
    assert offer(budgeted, "203.0.113.99") == {"GUARD_PASSED": 1}
    host.turn_known_sources(halves, known)
    assert offer(budgeted, "203.0.113.99") == {"HANDSHAKE_FLOOD": 1}
    assert not any(any(values) for _, values in known.raw_chunks()), "nothing is left of it"


def test_the_filter_mistakes_few_strangers_for_known_ones(budgeted: Node) -> None:
    for source in strangers(4000):
        budgeted.run("leak_guard", sent(source, 2, 92))
    spend_strangers(budgeted)
    counted = offer(budgeted, *strangers(4000, first=8000))
    assert counted["GUARD_PASSED"] <= 4, "two bits of a million each: one in 15,000 is to be expected"


def test_without_budgets_every_handshake_passes(make_node: NodeFactory) -> None:
    node = make_node(source="guard.bpf.c")
    node.reset()
    prepare(node)
    assert offer(node, *["198.18.0.9"] * 100) == {"GUARD_PASSED": 100}
