"""What a router changes in a packet's header and what it must leave alone: hops, class of service, congestion marks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest
from scapy.packet import Packet

from jetplane.lab import traffic
from jetplane.lab.addresses import TO_NODE
from jetplane.lab.topology import Lab
from tests.netns import nat_place as place
from tests.netns import nat_wire as wire
from tests.netns.nat_place import FAMILIES, FAR

SENT_TTL = 64
EXPEDITED = 46 << 2  # the class of service that calls use (RFC 3246)
MARKS = {"not-ect": 0, "ect(1)": 1, "ect(0)": 2, "ce": 3}  # RFC 3168, section 5


@dataclass(frozen=True)
class Options:
    """Socket options of one family (linux/in.h, linux/in6.h), and the type of the messages that answer them."""

    level: int
    receive_hops: int
    hops: int
    set_hops: int
    receive_class: int
    traffic_class: int


OPTIONS = {
    4: Options(socket.IPPROTO_IP, 12, 2, 2, 13, 1),
    6: Options(socket.IPPROTO_IPV6, 51, 52, 16, 66, 67),
}


@dataclass(frozen=True, slots=True)
class Received:
    """A datagram and the header it came with."""

    data: bytes
    hops: int
    traffic_class: int
    source: tuple[str, int]


def receive(receiver: socket.socket, family: int) -> Received:
    """Take a datagram."""
    options = OPTIONS[family]
    data, ancillary, _, source = receiver.recvmsg(100, 200)
    said = {kind: int.from_bytes(value[:4], "little") for level, kind, value in ancillary if level == options.level}
    return Received(data, said[options.hops], said[options.traffic_class], source[:2])


def prepare(made: socket.socket, family: int, traffic_class: int) -> None:
    """Send with this class and 64 hops, and be told both of what comes."""
    options = OPTIONS[family]
    made.setsockopt(options.level, options.receive_hops, 1)
    made.setsockopt(options.level, options.receive_class, 1)
    made.setsockopt(options.level, options.set_hops, SENT_TTL)
    made.setsockopt(options.level, options.traffic_class, traffic_class)


@pytest.fixture(scope="module")
def lab(nat_lab: Lab) -> Lab:
    """The one that all share."""
    return nat_lab


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS)
def test_class_and_marks_stay_and_each_router_takes_one_hop(lab: Lab, family: int, mark: int) -> None:
    """The node is one router, the internet another."""
    with place.talking(place.subscriber(lab, 0), place.far(lab), FAR[family]) as (client, server):
        for end in (client, server):
            prepare(end, family, EXPEDITED | mark)
        for sender, receiver in ((client, server), (server, client)):
            sender.send(b"how was it?")
            received = receive(receiver, family)
            assert (received.hops, received.traffic_class) == (SENT_TTL - 2, EXPEDITED | mark)


@contextmanager
def _introduced(lab: Lab, family: int) -> Iterator[tuple[list[socket.socket], list[tuple[str, int]]]]:
    """Both subscribers' sockets, and how the internet sees them."""
    with (
        place.udp(place.far(lab), family, address=FAR[family]) as far,
        place.udp(place.subscriber(lab, 0), family, 50000) as one,
        place.udp(place.subscriber(lab, 1), family, 50000) as other,
    ):
        seen = []
        for client in (one, other):
            client.sendto(b"here I am", far.getsockname()[:2])
            seen.append(far.recvfrom(100)[1][:2])
        yield [one, other], seen


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packet_that_turns_round_at_the_node_takes_one_hop(lab: Lab, family: int) -> None:
    """Hairpinning (RFC 4787, REQ-9): the other subscriber sees the exit address and one router."""
    with _introduced(lab, family) as (clients, seen):
        for client in clients:
            prepare(client, family, EXPEDITED | MARKS["ce"])
        before = place.counters(lab)
        clients[1].sendto(b"opens the way", seen[0])
        place.wait_for_rise(lab, "FILTERED", before)
        before = place.counters(lab)
        for sender, receiver in ((0, 1), (1, 0)):
            clients[sender].sendto(b"hello, neighbour", seen[receiver])
            received = receive(clients[receiver], family)
            assert received == Received(b"hello, neighbour", SENT_TTL - 1, EXPEDITED | MARKS["ce"], seen[sender])
        assert place.counters(lab)["FILTERED"] == before["FILTERED"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tcp_connection_loses_one_hop_at_the_node(lab: Lab, family: int) -> None:
    here, interface = place.subscriber(lab, 0), lab.plan.subscribers[0].interface
    with wire.watch(here, interface) as near, wire.watch(lab.plan.internet, TO_NODE) as behind:
        with place.connection(lab, family) as (client, server):
            place.send_some(client, server, 10_000)
            place.send_some(server, client, 10_000)
        exit_address = place.exits(lab, family)[0]
        wires = {
            "out": (near, place.inner(lab, 0, family), behind, exit_address),
            "in": (behind, FAR[family], near, FAR[family]),
        }
        for before, source, after, source_after in wires.values():
            came = {wire.hops(packet) for packet in before.packets() if TCP in packet and packet.src == source}
            left = {wire.hops(packet) for packet in after.packets() if TCP in packet and packet.src == source_after}
            assert len(came) == 1
            assert left == {hops - 1 for hops in came}


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_else_changes_in_a_packet(lab: Lab, family: int) -> None:
    """Source, port or identifier, hops, and the checksums that scapy computes anew; not another bit."""
    here, interface = place.subscriber(lab, 0), lab.plan.subscribers[0].interface
    place.set_offloads(lab, [(here, interface)], "tx", "off")  # or the sent packet had no checksum yet
    with wire.watch(here, interface) as near, wire.watch(lab.plan.internet, TO_NODE) as behind:
        with place.udp(here, family) as client:
            client.sendto(b"whatever", (FAR[family], 4242))
        with place.tcp(here, family) as client, pytest.raises(ConnectionRefusedError):
            client.connect((FAR[family], 9))
        traffic.ping(traffic.Visit(lab.name, here, FAR[family]), 1)
        for kind, port in (((TCP,), "sport"), ((UDP,), "sport"), ((ICMP, ICMPv6EchoRequest), "id")):
            sent = near.first("what was sent", lambda p, kind=kind: _is(p, kind, FAR[family]))  # type: ignore[misc]
            left = behind.first("what left", lambda p, kind=kind: _is(p, kind, FAR[family]))  # type: ignore[misc]
            assert left.src == place.exits(lab, family)[0]
            sent.src = left.src
            setattr(sent, "ttl" if family == 4 else "hlim", wire.hops(sent) - 1)
            setattr(sent.payload, port, getattr(left.payload, port))
            assert bytes(wire.fresh(sent)) == bytes(left)
    place.set_offloads(lab, [(here, interface)], "tx", "on", "tso", "on")


def _is(packet: Packet, kinds: tuple[type[Packet], ...], destination: str) -> bool:
    return isinstance(packet.payload, kinds) and packet.dst == destination
