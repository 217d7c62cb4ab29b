"""Datagrams that no link carries whole, through a running node and real stacks on both sides (RFC 4787, REQ-14).

The site's link takes 1,500 bytes and the tunnel 1,420: what a site cuts for its own link is cut again by the node in
IPv4; in IPv6 the site is told to cut smaller.
"""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from jetplane.lab import namespaces, servers, topology, traffic
from jetplane.lab.addresses import SITES_IPV4, SITES_IPV6, UPLINK, LabOptions
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience, wait_until
from tests.bpf.nat_fragments import pieces
from tests.bpf.packets import UDP, Packet, ip, wire
from tests.netns.nat_place import FAMILIES, exits, inner, subscriber, udp

pytestmark = [pytest.mark.timeout(600), pytest.mark.parametrize("family", FAMILIES)]

BIG = 8000
SITES = {4: SITES_IPV4, 6: SITES_IPV6}
Order = Callable[[Sequence[Packet]], Sequence[Packet]]


def reversed_order(parts: Sequence[Packet]) -> Sequence[Packet]:
    return parts[::-1]


def mixed(parts: Sequence[Packet]) -> Sequence[Packet]:
    return random.Random(1).sample(parts, len(parts))


def first_then_reversed(parts: Sequence[Packet]) -> Sequence[Packet]:
    return [parts[0], *parts[:0:-1]]


@pytest.fixture(scope="module")
def lab(root: None) -> Iterator[Lab]:
    """A lab whose two subscribers share their exit addresses, which the sites know how to reach in IPv6."""
    with topology.lab(LabOptions()) as built:
        built.start()
        for site in SITES_IPV6:
            there = traffic.Visit(built.name, subscriber(built, 0), site)
            wait_until(f"a big answer from {site}", partial(_is_answered, there), seconds=30)
        yield built


def _is_answered(there: traffic.Visit) -> bool:
    return traffic.ping(there, 1, size=BIG, wait=1) == 1


def visit(lab: Lab, number: int, family: int, site: int = 0) -> traffic.Visit:
    return traffic.Visit(lab.name, subscriber(lab, number), SITES[family][site])


@pytest.mark.parametrize("number", [0, 1])
def test_big_pings_are_answered(lab: Lab, family: int, number: int) -> None:
    assert traffic.ping(visit(lab, number, family), 10, size=BIG) == 10


@pytest.mark.parametrize("size", [1500, BIG, 60_000])
def test_big_datagrams_come_back_whole(lab: Lab, family: int, size: int) -> None:
    assert traffic.udp_echo(visit(lab, 0, family), 10, size=size) == 10


def raw(namespace: str, family: int) -> socket.socket:
    """A socket that sends whole IP packets."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    return namespaces.inside(namespace, lambda: socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW))


def send(sender: socket.socket, parts: Sequence[Packet]) -> None:
    for part in parts:
        sender.sendto(wire(part, ethernet=False), (part.dst, 0))


@pytest.mark.parametrize("order", [list, reversed_order, mixed])
def test_a_subscriber_s_fragments_may_come_in_any_order(lab: Lab, family: int, order: Order) -> None:
    place, site = subscriber(lab, 0), SITES[family][0]
    with udp(place, family) as client, raw(place, family) as sender:
        client.connect((site, servers.ECHO_PORT))
        here, port = client.getsockname()[:2]
        for identification in range(1, 6):
            said = os.urandom(BIG)
            whole = ip(here, site, ttl=64) / UDP(sport=port, dport=servers.ECHO_PORT) / said
            send(sender, order(pieces(whole, 1360, identification=identification)))
            assert client.recv(65536) == said


@pytest.mark.parametrize("order", [list, first_then_reversed])
def test_a_site_s_fragments_may_follow_their_first_in_any_order(lab: Lab, family: int, order: Order) -> None:
    with conversation(lab, 0, family) as (client, there, (address, port)):
        site, from_port = there.getsockname()[:2]
        with raw(lab.plan.internet, family) as sender:
            for identification in range(1, 6):
                said = os.urandom(BIG)
                whole = ip(site, address, ttl=64) / UDP(sport=from_port, dport=port) / said
                send(sender, order(pieces(whole, 1360, identification=identification)))
                assert client.recv(65536) == said


def test_a_site_s_fragments_may_come_in_any_order_within_a_burst(lab: Lab, family: int, one_core: int) -> None:
    """The last fragment first: those that come before the first one get a second chance behind the burst's end.

    A burst may be cut in two wherever the receiver pleases, and a busy machine cuts often: then a datagram is lost.
    """
    with conversation(lab, 0, family) as (client, there, (address, port)), raw(lab.plan.internet, family) as sender:
        site, from_port = there.getsockname()[:2]

        def attempt() -> bool:
            said = os.urandom(BIG)
            whole = ip(site, address, ttl=64) / UDP(sport=from_port, dport=port) / said
            parts = pieces(whole, 1360, identification=int.from_bytes(os.urandom(2)))
            at_once(one_core, [wire(part, ethernet=False) for part in reversed(parts)], sender, address)
            return arrives(client, said)

        assert sum(attempt() for _ in range(46)) >= 23


def arrives(client: socket.socket, said: bytes) -> bool:
    """Whether this is what comes next, within a second."""
    client.settimeout(patience(1))
    try:
        return client.recv(65536) == said
    except TimeoutError:
        return False


@pytest.fixture
def one_core(lab: Lab) -> Iterator[int]:
    """The core on which a kernel thread receives for the uplink meanwhile: who keeps it busy, fills a burst."""
    core = max(os.sched_getaffinity(0))
    before = _receivers()
    _receive_in_a_thread(lab, 1)
    for thread in _receivers() - before:
        os.sched_setaffinity(thread, {core})
    yield core
    _receive_in_a_thread(lab, 0)


def _receive_in_a_thread(lab: Lab, yes: int) -> None:
    """Switch "threaded" NAPI; sysfs shows the devices of the namespace that it was mounted in."""
    script = f"mount -t sysfs none /sys && echo {yes} > /sys/class/net/{UPLINK}/threaded"
    command = ["unshare", "--mount", "sh", "-c", script]
    done = namespaces.run(lab.plan.node, command, lab=lab.name, timeout=patience(20))
    assert done.returncode == 0, done.stderr


def _receivers() -> set[int]:
    """Kernel threads that receive for an uplink of this name."""
    found = set()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # gone meanwhile
            if comm.read_text().startswith(f"napi/{UPLINK}-"):
                found.add(int(comm.parent.name))
    return found


def at_once(core: int, packets: Sequence[bytes], sender: socket.socket, address: str) -> None:
    """Send all before the receiving thread, on the same core, gets to run: as a real-time task, for less than a ms."""

    def work() -> None:
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        for packet in packets:
            sender.sendto(packet, (address, 0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@contextmanager
def conversation(lab: Lab, number: int, family: int) -> Iterator[tuple[socket.socket, socket.socket, tuple[str, int]]]:
    """A subscriber that has said something to a site: its socket, the site's, and where the site saw it."""
    with (
        udp(subscriber(lab, number), family) as client,
        udp(lab.plan.internet, family, address=SITES[family][1]) as site,
    ):
        client.sendto(b"hello", site.getsockname()[:2])
        yield client, site, site.recvfrom(100)[1][:2]


def test_subscribers_may_send_each_other_big_datagrams(lab: Lab, family: int) -> None:
    """Both behind the same exit address: there, out and in again, in both directions."""
    (exit_address,) = exits(lab, family)
    with conversation(lab, 0, family) as (one, _, here), conversation(lab, 1, family) as (other, _, there):
        assert here[0] == there[0] == exit_address
        before = filtered(lab)
        other.sendto(b"is not let in, but opens the way back", here)
        wait_until("the way back", lambda: filtered(lab) > before)
        for sender, receiver, target in ((one, other, there), (other, one, here)):
            for said in (b"small", os.urandom(BIG)):
                sender.sendto(said, target)
                assert receiver.recv(65536) == said


def filtered(lab: Lab) -> int:
    return lab.node.report().counters["FILTERED"]


def test_a_flood_of_fragments_to_one_subscriber_leaves_another_s_whole(lab: Lab, family: int) -> None:
    """First ones that are let in and never end, and later ones of nothing, between the fragments of another's.

    Queues that both subscribers share may overflow, now and then; entries would, each time.
    """
    before = lab.node.report().counters["FRAGMENT_STRAY"]
    with (
        conversation(lab, 1, family) as (_, there, (address, port)),
        conversation(lab, 0, family) as (client, site, ours),
        raw(lab.plan.internet, family) as sender,
    ):
        where, from_port = there.getsockname()[:2]
        flood = ip(where, address, ttl=64) / UDP(sport=from_port, dport=port) / bytes(200)
        parts = [
            wire(part, ethernet=False) for number in range(500) for part in pieces(flood, 64, identification=number)
        ]
        firsts, strays = parts[::4], [part for place, part in enumerate(parts) if place % 4 == 3]
        for turn in range(10):
            said = os.urandom(BIG)

            def attempt(number: int, said: bytes = said, turn: int = turn) -> bool:
                whole = ip(site.getsockname()[0], ours[0], ttl=64) / UDP(sport=site.getsockname()[1], dport=ours[1])
                for part in pieces(whole / said, 1360, identification=40_000 + 10 * turn + number):
                    send(sender, [part])
                    for packet in firsts[turn * 40 : turn * 40 + 30] + strays[:170]:
                        sender.sendto(packet, (address, 0))
                return arrives(client, said)

            assert any(attempt(number) for number in range(3))
    assert lab.node.report().counters["FRAGMENT_STRAY"] > before


def test_what_is_inside_is_never_told_outside(lab: Lab, family: int) -> None:
    """Also not by the stack that answers about fragments it was handed: only exit addresses were ever seen."""
    seen = {row["source"] for row in servers.ask(lab.visitors)}
    assert inner(lab, 0, family) not in seen
    assert lab.node.report().counters["LEAK"] == 0
