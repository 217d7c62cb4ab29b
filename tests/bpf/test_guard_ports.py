"""For what the guard looks for a socket: ports that the node itself uses always, others a few times a second."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from jetplane import abi
from jetplane.dataplane import host
from tests.bpf.conftest import NodeFactory
from tests.bpf.guard_packets import dropped, echo_request, fragment, passed, wireguard
from tests.bpf.guard_rows import CONVERSATIONS
from tests.bpf.guard_world import (
    CLOSED_PORT,
    CONNECTED,
    EXIT_OWN,
    INNER,
    NODE,
    QUERYING,
    SITE,
    SSH,
    WIREGUARD,
    prepare,
    refill_looks,
    sockets,
    spend_looks,
    used_ports,
)
from tests.bpf.harness import Case, Node, Tc, Xdp, each
from tests.bpf.packets import TCP, UDP, Packet, ip, wire

FAMILIES = (4, 6)
TCP_, UDP_ = socket.IPPROTO_TCP, socket.IPPROTO_UDP
LOOKS, TICKS = abi.constants()["LOOKS_AT_ONCE"], abi.constants()["TICKS_PER_LOOK"]
FASTEST_HZ = 1000
"""Ticks a second at most (kernel/Kconfig.hz)."""
FLOOD = 100_000

EXPECTED = tuple(row for row in CONVERSATIONS if row.verdict is Xdp.PASS)
UNEXPECTED = tuple(row for row in CONVERSATIONS if row.verdict is Xdp.DROP)


@pytest.fixture(scope="module")
def compiled(make_node: NodeFactory) -> Iterator[Node]:
    node = make_node()
    node.reset()
    prepare(node)
    with sockets(node):
        yield node


@pytest.fixture
def conversing(compiled: Node) -> Node:
    """A node with sockets of its own, of which the guard knows nothing yet."""
    compiled.reset()
    prepare(compiled)
    return compiled


def mark(node: Node, protocol: int, port: int, half: int) -> None:
    """Let one half say that a port is used."""
    place = (protocol == UDP_) << 16 | port
    word = node.maps["local_ports"].lookup(place // 64)
    word.used[half] |= 1 << place % 64
    node.maps["local_ports"].update(place // 64, word)


def turn(node: Node) -> None:
    host.turn_own_ports(node.maps["halves"], node.maps["local_ports"])


def answers(version: int) -> tuple[Packet, Packet]:
    """For the node's own connection and its own query."""
    header = ip(SITE[version], NODE[version])
    return header / TCP(sport=443, dport=CONNECTED, flags="A"), header / UDP(sport=53, dport=QUERYING) / b"answer"


@pytest.mark.parametrize("rows", each(EXPECTED))
def test_an_answer_passes_while_there_are_looks_and_marks_its_port(conversing: Node, rows: tuple[Case, ...]) -> None:
    for row in rows:
        refill_looks(conversing)
        conversing.check("guard", row)
        spend_looks(conversing)
        conversing.check("guard", row)
        assert len(used_ports(conversing.maps["local_ports"])) == 1
        turn(conversing)
        turn(conversing)


@pytest.mark.parametrize("rows", each(EXPECTED))
def test_without_a_mark_and_without_looks_no_answer_is_expected(conversing: Node, rows: tuple[Case, ...]) -> None:
    spend_looks(conversing)
    for row in rows:
        conversing.check("guard", dropped(row.name, "NOT_ALLOWED", row.packet))
    assert used_ports(conversing.maps["local_ports"]) == set()


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("version", FAMILIES)
def test_at_a_port_that_either_half_marks_an_answer_passes_without_looks(
    conversing: Node, version: int, half: int
) -> None:
    spend_looks(conversing)
    for (protocol, port), packet in zip(((TCP_, CONNECTED), (UDP_, QUERYING)), answers(version), strict=True):
        conversing.check("guard", dropped("too early", "NOT_ALLOWED", packet))
        mark(conversing, protocol, port, half)
        conversing.check("guard", passed("expected", packet))


@pytest.mark.parametrize("rows", each(UNEXPECTED))
def test_what_is_not_expected_marks_no_port(conversing: Node, rows: tuple[Case, ...]) -> None:
    for row in rows:
        refill_looks(conversing)
        conversing.check("guard", row)
        assert used_ports(conversing.maps["local_ports"]) == set()


@pytest.mark.parametrize("turns", [1, 2])
def test_a_mark_lives_for_one_turn_and_not_for_two(conversing: Node, turns: int) -> None:
    first, second = (passed(f"answer {n}", packet) for n, packet in enumerate(answers(4)))
    conversing.check("guard", first)
    mark(conversing, TCP_, 1, 1)
    for _ in range(turns):
        turn(conversing)
    spend_looks(conversing)
    if turns == 1:
        assert used_ports(conversing.maps["local_ports"]) == {(TCP_, CONNECTED)}
        conversing.check("guard", first)
        turn(conversing)
        conversing.check("guard", first)
    else:
        assert used_ports(conversing.maps["local_ports"]) == set()
        conversing.check("guard", dropped("late", "NOT_ALLOWED", first.packet))
    conversing.check("guard", dropped("never marked", "NOT_ALLOWED", second.packet))
    conversing.check("guard", passed("a service stays", ip(SITE[4], NODE[4]) / TCP(dport=SSH, flags="S")))


def test_services_and_marks_change_independently(conversing: Node) -> None:
    mark(conversing, TCP_, SSH + 1, 1)
    host.write_services(conversing.maps["services"], conversing.maps["local_ports"], [])
    assert used_ports(conversing.maps["local_ports"]) == {(TCP_, SSH + 1)}
    conversing.check("guard", dropped("closed", "NOT_ALLOWED", ip(SITE[4], NODE[4]) / TCP(dport=SSH, flags="S")))


def taken(node: Node, protocol: int) -> int:
    """When the looks at CLOSED_PORT and its neighbours are paid for, in ticks."""
    word = node.maps["local_ports"].lookup(((protocol == UDP_) << 16 | CLOSED_PORT) // 64)
    return int(word.paid_until)


@pytest.mark.parametrize("transport", [TCP(dport=CLOSED_PORT, flags="A"), UDP(dport=CLOSED_PORT)], ids=["tcp", "udp"])
def test_a_flood_at_a_closed_port_is_looked_at_a_few_times_and_leaves_others_theirs(
    conversing: Node, transport: Packet
) -> None:
    packet, protocol = wire(ip(SITE[4], NODE[4]) / transport), TCP_ if "flags" in transport.fields else UDP_
    conversing.check("guard", dropped("the first one", "NOT_ALLOWED", packet))
    first, began = taken(conversing, protocol), time.monotonic()
    assert conversing.run("guard", packet, repeat=FLOOD).counted == {"NOT_ALLOWED": FLOOD}
    ticks = int((time.monotonic() - began) * FASTEST_HZ) + 2
    at_once = (LOOKS - 1) * TICKS
    assert at_once <= taken(conversing, protocol) - first <= at_once + ticks + TICKS
    for answer in answers(4):
        conversing.check("guard", passed("an answer elsewhere", answer))


@pytest.mark.parametrize("version", FAMILIES)
def test_first_syns_and_services_take_no_look(conversing: Node, version: int) -> None:
    header = ip(SITE[version], NODE[version])
    conversing.check("guard", dropped("a first syn", "NOT_ALLOWED", header / TCP(dport=CLOSED_PORT, flags="S")))
    conversing.check("guard", passed("a syn to a service", header / TCP(dport=SSH, flags="S")))
    conversing.check("guard", passed("an ack to a service", header / TCP(dport=SSH, flags="A")))
    assert not any(word.paid_until for _, word in conversing.maps["local_ports"].items())


OWN = [(source, version) for source in (NODE, EXIT_OWN) for version in FAMILIES]


def sent(node: Node, packet: Packet, **context: int) -> set[tuple[int, int]]:
    """What is known to be used after leak_guard has let this pass."""
    assert node.run("leak_guard", wire(packet), **context).verdict == Tc.OK
    return used_ports(node.maps["local_ports"])


@pytest.mark.parametrize(("source", "version"), OWN)
def test_what_the_node_itself_sends_marks_its_port(conversing: Node, source: dict[int, str], version: int) -> None:
    header = ip(source[version], SITE[version])
    assert sent(conversing, header / TCP(sport=CONNECTED, dport=9)) == {(TCP_, CONNECTED)}
    assert sent(conversing, header / UDP(sport=QUERYING)) == {(TCP_, CONNECTED), (UDP_, QUERYING)}
    both = {(TCP_, CONNECTED), (UDP_, QUERYING)}
    assert sent(conversing, fragment(header / UDP(sport=1, len=4000) / bytes(64), 0, more=True)) == both | {(UDP_, 1)}
    assert sent(conversing, header / TCP(sport=WIREGUARD)) == both | {(UDP_, 1), (TCP_, WIREGUARD)}
    spend_looks(conversing)
    if source is NODE:
        for packet in answers(version):
            conversing.check("guard", passed("the answer", packet))


@pytest.mark.parametrize(("source", "version"), OWN)
def test_nothing_else_marks_a_port(conversing: Node, source: dict[int, str], version: int) -> None:
    """Neither WireGuard, nor what has no ports, nor what is not the node's own: forwarded packets came in somewhere."""
    header = ip(source[version], SITE[version])
    whole = header / UDP(sport=QUERYING, len=4000) / bytes(64)
    assert sent(conversing, header / UDP(sport=WIREGUARD) / wireguard(4, 32)) == set()
    assert sent(conversing, header / echo_request(version)) == set()
    assert sent(conversing, fragment(whole, 64, more=True)) == set()
    for packet in (header / TCP(sport=CONNECTED), header / UDP(sport=QUERYING), fragment(whole, 0, more=True)):
        assert sent(conversing, packet, ingress_ifindex=1) == set()
    leak = wire(ip(INNER[version], SITE[version]) / UDP(sport=QUERYING))
    assert conversing.run("leak_guard", leak).dropped == "LEAK"
    assert used_ports(conversing.maps["local_ports"]) == set()
