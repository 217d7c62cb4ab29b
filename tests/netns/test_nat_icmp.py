"""ICMP errors through a running node, about what subscribers send and about what is sent to them.

subscriber ── node ── internet (a router) ── far
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import UDP

from jetplane.lab import traffic
from jetplane.lab.addresses import (
    GATEWAY_IPV4,
    GATEWAY_IPV6,
    NODE_IPV4,
    NODE_IPV6,
    TO_NODE,
    TUNNEL_MTU,
    UPLINK,
)
from jetplane.lab.topology import Lab
from tests.netns import nat_place as place
from tests.netns import nat_wire as wire
from tests.netns.nat_place import FAMILIES, FAR, SITES

pytestmark = pytest.mark.timeout(300)

GATEWAY = {4: str(GATEWAY_IPV4.ip), 6: str(GATEWAY_IPV6.ip)}
NODE = {4: str(NODE_IPV4.ip), 6: str(NODE_IPV6.ip)}


@pytest.fixture(scope="module")
def lab(nat_lab: Lab) -> Iterator[Lab]:
    """Hosts that compute their checksums: else a packet inside an error would show what was left to the device."""
    subscriber = nat_lab.plan.subscribers[0]
    ends = [(place.far(nat_lab), "eth0"), (subscriber.namespace, subscriber.interface)]
    place.set_offloads(nat_lab, ends, "tx", "off")
    yield nat_lab
    place.set_offloads(nat_lab, ends, "tx", "on", "tso", "on")


def tunnel(lab: Lab, family: int) -> str:
    plan = lab.plan.tunnels[lab.plan.subscribers[0].tunnel]
    return str(plan.ipv4.ip if family == 4 else plan.ipv6.ip)


TRACES = {"udp": (), "udp to one port": ("-U",), "icmp": ("-I",), "tcp": ("-T", "-p", "9")}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", TRACES.values(), ids=TRACES)
def test_traceroute_shows_every_router(lab: Lab, family: int, options: tuple[str, ...]) -> None:
    there = traffic.Visit(lab.name, place.subscriber(lab, 0), FAR[family])
    assert traffic.trace(there, *options) == [tunnel(lab, family), GATEWAY[family], FAR[family]]


@pytest.mark.parametrize("family", FAMILIES)
def test_tracepath_shows_every_router_and_the_narrowest_link(lab: Lab, family: int) -> None:
    with place.narrowed(lab.plan.internet, place.TO_FAR, 1320):
        said = place.program(lab, place.subscriber(lab, 0), "tracepath", "-n", "-m", "5", FAR[family])
    hops = dict(re.findall(r"^ (\d)\??:\s+([0-9a-f.:]+) ", said, re.MULTILINE))
    assert hops == {"1": tunnel(lab, family), "2": GATEWAY[family], "3": FAR[family]}, said
    assert "Resume: pmtu 1320 hops 3 back 3" in said, said


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_from_outside_to_a_binding_shows_the_node_and_the_exit(lab: Lab, family: int) -> None:
    """The node answers from its own address, the subscriber from the exit."""
    with _far_conversation(lab, family) as (client, server):
        port = str(client_port := server.getpeername()[1])
        client.close()
        source = server.getsockname()
        server.close()
        there = traffic.Visit(lab.name, place.far(lab), place.exits(lab, family)[0])
        hops = traffic.trace(there, "-U", "-p", port, f"--sport={source[1]}")
    assert hops == [place.FAR_ROUTER[family], NODE[family], place.exits(lab, family)[0]], client_port


@contextmanager
def _far_conversation(lab: Lab, family: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    with place.talking(place.subscriber(lab, 0), place.far(lab), FAR[family]) as pair:
        yield pair


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ends", ["subscriber", "site"])
def test_a_closed_port_refuses_whoever_sends_to_it(lab: Lab, family: int, ends: str) -> None:
    with _far_conversation(lab, family) as (client, server):
        closed, other = (client, server) if ends == "subscriber" else (server, client)
        closed.close()
        other.send(b"still there?")
        with pytest.raises(ConnectionRefusedError):
            other.recv(100)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_closed_tcp_port_and_a_host_that_is_not_there_are_told_apart(lab: Lab, family: int) -> None:
    nobody = {4: "192.0.2.77", 6: "2001:db8:1::77"}[family]  # the lab's internet has no route to it
    with place.tcp(place.subscriber(lab, 0), family) as client, pytest.raises(ConnectionRefusedError):
        client.connect((FAR[family], 9))
    with place.tcp(place.subscriber(lab, 0), family) as client, pytest.raises(OSError, match="unreachable"):
        client.connect((nobody, 9))


TIME_EXCEEDED = {4: (11, 0), 6: (3, 0)}
TOO_BIG = {4: (3, 4), 6: (2, 0)}
PORT_UNREACHABLE = {4: (3, 3), 6: (1, 4)}
TTL = {4: (socket.IPPROTO_IP, socket.IP_TTL), 6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("ttl", "router"), [(1, "node"), (2, "gateway")])
def test_what_lives_too_short_on_its_way_out(lab: Lab, family: int, ttl: int, router: str) -> None:
    """The error speaks of the packet as the subscriber sent it, whichever router made it."""
    here, interface = place.subscriber(lab, 0), lab.plan.subscribers[0].interface
    with wire.watch(here, interface) as seen, place.udp(here, family) as client:
        client.setsockopt(*TTL[family], ttl)
        client.connect((FAR[family], 4242))
        client.send(b"how far?")
        error = seen.error(*TIME_EXCEEDED[family])
        local = client.getsockname()
    assert error.outer.src == (tunnel(lab, family) if router == "node" else GATEWAY[family])
    assert error.outer.dst == place.inner(lab, 0, family)
    assert (error.inside.src, error.inside[UDP].sport) == local[:2]
    assert (error.inside.dst, error.inside[UDP].dport) == (FAR[family], 4242)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_lives_too_short_on_its_way_in(lab: Lab, family: int) -> None:
    """The node's own error goes to the site, from the node's address, and speaks of the exit address."""
    with _far_conversation(lab, family) as (_, server), wire.watch(lab.plan.internet, TO_NODE) as seen:
        server.setsockopt(*TTL[family], 2)
        server.send(b"how far?")
        error = seen.error(*TIME_EXCEEDED[family])
        assert (error.outer.src, error.outer.dst) == (NODE[family], FAR[family])
        assert (error.inside.dst, error.inside[UDP].dport) == server.getpeername()[:2]
        assert (error.inside.src, error.inside[UDP].sport) == server.getsockname()[:2]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_too_big_on_its_way_in(lab: Lab, family: int) -> None:
    with _far_conversation(lab, family) as (_, server), wire.watch(lab.plan.internet, TO_NODE) as seen:
        place.forbid_fragments(server, family)
        server.send(bytes(1500 - (28 if family == 4 else 48)))
        error = seen.error(*TOO_BIG[family])
        assert (error.outer.src, error.outer.dst) == (NODE[family], FAR[family])
        assert _mtu_in(error) == TUNNEL_MTU
        assert (error.inside.dst, error.inside[UDP].dport) == server.getpeername()[:2]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_too_big_for_the_uplink_on_its_way_out(lab: Lab, family: int) -> None:
    here, interface = place.subscriber(lab, 0), lab.plan.subscribers[0].interface
    with (
        place.narrowed(lab.plan.node, UPLINK, 1300),
        wire.watch(here, interface) as seen,
        place.udp(here, family) as client,
    ):
        place.forbid_fragments(client, family)
        client.connect((SITES[family][0], 4242))
        client.send(bytes(1372))
        error = seen.error(*TOO_BIG[family])
        assert (error.outer.src, error.outer.dst) == (tunnel(lab, family), place.inner(lab, 0, family))
        assert _mtu_in(error) == 1300
        assert (error.inside.src, error.inside[UDP].sport) == client.getsockname()[:2]


def _mtu_in(error: wire.Error) -> int:
    """Next-hop MTU: RFC 1191, section 4; RFC 4443, section 3.2."""
    return int.from_bytes(bytes(error.message)[4:8], "big")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_subscribers_own_error_leaves_from_the_exit(lab: Lab, family: int) -> None:
    with _far_conversation(lab, family) as (client, server), wire.watch(lab.plan.internet, TO_NODE) as seen:
        client.close()
        server.send(b"still there?")
        error = seen.error(*PORT_UNREACHABLE[family])
        assert (error.outer.src, error.outer.dst) == (place.exits(lab, family)[0], FAR[family])
        assert (error.inside.dst, error.inside[UDP].dport) == server.getpeername()[:2]
