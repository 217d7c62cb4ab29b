"""Packets that are too big for where they go or have lived too long: the stack answers, as a router must."""

from __future__ import annotations

from collections.abc import Iterator

import pyroute2
import pytest

from tests.bpf.harness import Node, Tc, inside
from tests.bpf.nat_world import (
    EXIT,
    FAMILIES,
    INNER,
    PROTOCOLS,
    answer,
    changed,
    is_dropped,
    out_packet,
    prepare,
    send_in,
    send_out,
)
from tests.bpf.packets import Packet, wire

pytestmark = pytest.mark.parametrize("version", FAMILIES)
MTU = 1420
HANDOVER_MARK = 0x6A657401
HEADER = {4: 20, 6: 40}
TRANSPORT = {"tcp": 20, "udp": 8, "icmp": 8}


@pytest.fixture
def world(node: Node) -> Node:
    return prepare(node)


def is_handed_over(world: Node, version: int, packet: Packet, **context: int) -> None:
    """Assert that the packet went to the stack, translated, with its hops for the stack to count."""
    result = world.run("nat_in", wire(packet), **context)
    assert Tc(result.verdict) is Tc.OK
    assert result.output == wire(changed(packet, hops=0, destination=(INNER[version], 40000)))
    assert result.counted == {"HANDED_TO_STACK": 1}
    assert result.mark == HANDOVER_MARK


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_just_fits_is_sent_on_and_a_byte_more_is_not(world: Node, version: int, protocol: str) -> None:
    port = send_out(world, out_packet(version, protocol))
    room = MTU - HEADER[version] - TRANSPORT[protocol]

    send_in(world, answer(version, protocol, port, payload=bytes(room)), (INNER[version], 40000))
    is_handed_over(world, version, answer(version, protocol, port, payload=bytes(room + 1)))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_super_packet_is_judged_by_its_segments(world: Node, version: int, protocol: str) -> None:
    port = send_out(world, out_packet(version, protocol))
    room = MTU - HEADER[version] - TRANSPORT[protocol]
    big = answer(version, protocol, port, payload=bytes(2800), flags="A")

    result = world.run("nat_in", wire(big), gso_size=room)
    assert Tc(result.verdict) is Tc.REDIRECT, f"counted: {dict(result.counted)}"
    result = world.run("nat_in", wire(big), gso_size=room + 1)
    assert (Tc(result.verdict), result.counted) == (Tc.OK, {"HANDED_TO_STACK": 1})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("ttl", [0, 1])
def test_the_last_hop_is_the_stack_s_to_answer(world: Node, version: int, protocol: str, ttl: int) -> None:
    port = send_out(world, out_packet(version, protocol))

    is_handed_over(world, version, answer(version, protocol, port, ttl=ttl))


UPLINK_MTU = 1300


@pytest.fixture
def narrow(world: Node) -> Iterator[Node]:
    """A node whose uplink carries less than its tunnel."""
    set_uplink_mtu(world, UPLINK_MTU)
    yield world
    set_uplink_mtu(world, 65536)


def set_uplink_mtu(world: Node, mtu: int) -> None:
    """Of the loopback, which stands for the uplink."""
    with inside(world.namespace), pyroute2.IPRoute() as route:
        route.link("set", index=1, mtu=mtu)


def with_df(packet: Packet) -> Packet:
    """The packet, not to be cut in pieces; in IPv6 none ever is."""
    if packet.version == 4:
        packet.flags = "DF"
    return packet


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_does_not_fit_the_uplink_is_the_stack_s_to_answer(narrow: Node, version: int, protocol: str) -> None:
    """Untranslated, for the subscriber will be told (RFC 4787, REQ-13)."""
    room = UPLINK_MTU - HEADER[version] - TRANSPORT[protocol]

    send_out(narrow, with_df(out_packet(version, protocol, payload=bytes(room))))
    packet = wire(with_df(out_packet(version, protocol, payload=bytes(room + 1))))
    result = narrow.run("nat_out", packet)
    assert (Tc(result.verdict), result.output, result.mark) == (Tc.OK, packet, HANDOVER_MARK)
    assert result.counted == {"HANDED_TO_STACK": 1}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_super_packet_is_judged_by_its_segments_on_the_way_out_too(narrow: Node, version: int, protocol: str) -> None:
    room = UPLINK_MTU - HEADER[version] - TRANSPORT[protocol]
    big = wire(with_df(out_packet(version, protocol, payload=bytes(2600), flags="A")))

    assert Tc(narrow.run("nat_out", big, gso_size=room).verdict) is Tc.REDIRECT
    result = narrow.run("nat_out", big, gso_size=room + 1)
    assert (Tc(result.verdict), result.counted) == (Tc.OK, {"HANDED_TO_STACK": 1})


def test_what_might_be_cut_in_pieces_is_dropped_by_name(narrow: Node, version: int) -> None:
    """The stack would cut the packet before it is translated. IPv6 routers cut nothing."""
    packet = out_packet(version, "udp", payload=bytes(UPLINK_MTU))
    if version == 4:
        is_dropped(narrow, "nat_out", packet, "TOO_BIG")
    else:
        assert narrow.run("nat_out", wire(packet)).counted == {"HANDED_TO_STACK": 1}


def test_what_turns_round_at_the_node_need_not_fit_the_uplink(narrow: Node, version: int) -> None:
    packet = out_packet(version, "udp", payload=bytes(UPLINK_MTU), destination=EXIT[version])
    assert Tc(narrow.run("nat_out", wire(packet)).verdict) is Tc.REDIRECT
