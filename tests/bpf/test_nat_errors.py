"""ICMP errors through the translation, with the packet inside them (RFC 5508, section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.bpf.harness import Node, Tc
from tests.bpf.nat_world import (
    EXIT,
    FAMILIES,
    INNER,
    NODE,
    OTHER,
    PROTOCOLS,
    ROUTER,
    SITE,
    Life,
    answer,
    changed,
    is_dropped,
    out_packet,
    prepare,
    send_in,
    send_out,
    slot_of,
)
from tests.bpf.packets import (
    ICMP,
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    Packet,
    Raw,
    ip,
    wire,
)

pytestmark = [pytest.mark.parametrize("version", FAMILIES), pytest.mark.parametrize("protocol", PROTOCOLS)]

HEADER = {4: 20, 6: 40}


@pytest.fixture
def world(node: Node) -> Node:
    return prepare(node)


def headers(version: int) -> Iterator[Packet]:
    """Every kind of ICMP error."""
    if version == 4:
        yield ICMP(type=3, code=3)
        yield ICMP(type=3, code=4, nexthopmtu=1280)
        yield ICMP(type=11)
        yield ICMP(type=12)
    else:
        yield ICMPv6DestUnreach(code=4)
        yield ICMPv6PacketTooBig(mtu=1280)
        yield ICMPv6TimeExceeded()
        yield ICMPv6ParamProblem()


def quoted(packet: Packet, size: int | None) -> Raw:
    """The first `size` bytes behind the IP header of the packet as it is on the wire."""
    whole = wire(packet, ethernet=False)
    return Raw(whole if size is None else whole[: HEADER[packet.version] + size])


def error(version: int, source: str, destination: str, header: Packet, about: Packet, size: int | None) -> Packet:
    return ip(source, destination, ttl=50) / header / quoted(about, size)


SIZES = (8, 12, 20, None)
"""How much of the transport is quoted: RFC 792 asks for eight bytes, everybody sends more."""


@pytest.mark.parametrize("size", SIZES)
def test_an_error_about_a_packet_that_left_reaches_the_subscriber(
    world: Node, version: int, protocol: str, size: int | None
) -> None:
    sent = out_packet(version, protocol, payload=b"some payload, odd")
    port = send_out(world, sent)
    left = changed(sent, source=(EXIT[version], port))
    before = Life.of(world, slot_of(version, protocol, port))

    for header in headers(version):
        result = world.run("nat_in", wire(error(version, ROUTER[version], EXIT[version], header, left, size)))

        assert Tc(result.verdict) is Tc.REDIRECT, f"counted: {dict(result.counted)}"
        inside = changed(left, hops=0, source=(INNER[version], 40000))
        expected = changed(error(version, ROUTER[version], INNER[version], header, inside, size))
        assert result.output == wire(expected)
        assert result.counted["ICMP_ERRORS"] == 1
    assert Life.of(world, slot_of(version, protocol, port)) == before


@pytest.mark.parametrize("size", SIZES)
def test_a_subscriber_s_error_leaves_from_the_exit_address(
    world: Node, version: int, protocol: str, size: int | None
) -> None:
    port = send_out(world, out_packet(version, protocol))
    came = answer(version, protocol, port)
    arrived = changed(came, destination=(INNER[version], 40000))

    for header in headers(version):
        result = world.run("nat_out", wire(error(version, INNER[version], SITE[version], header, arrived, size)))

        assert Tc(result.verdict) is Tc.REDIRECT, f"counted: {dict(result.counted)}"
        inside = changed(arrived, hops=0, destination=(EXIT[version], port))
        expected = changed(error(version, EXIT[version], SITE[version], header, inside, size))
        assert result.output == wire(expected)


@pytest.mark.parametrize("size", SIZES)
def test_the_node_s_own_error_speaks_of_the_exit_address(
    world: Node, version: int, protocol: str, size: int | None
) -> None:
    """About a packet that nat_in had translated before it gave it to the stack."""
    port = send_out(world, out_packet(version, protocol))
    handed = changed(answer(version, protocol, port), hops=0, destination=(INNER[version], 40000))

    for header in headers(version):
        result = world.run("leak_guard", wire(error(version, NODE[version], SITE[version], header, handed, size)))

        assert Tc(result.verdict) is Tc.OK, f"counted: {dict(result.counted)}"
        inside = changed(handed, hops=0, destination=(EXIT[version], port))
        assert result.output == wire(error(version, NODE[version], SITE[version], header, inside, size))


def test_the_node_s_error_about_its_own_packets_is_left_alone(world: Node, version: int, protocol: str) -> None:
    for header in headers(version):
        packet = error(
            version, NODE[version], SITE[version], header, answer(version, protocol, 5, destination=NODE[version]), 8
        )
        assert world.run("leak_guard", wire(packet)).output == wire(packet)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("another-port", {"port": 1}),
        ("another-source-inside", {"source": 9}),
        ("a-remote-never-addressed", {"destination": 9}),
        ("seven-bytes-inside", {"size": 7}),
        ("no-header-inside", {"size": -10}),
    ],
)
def test_an_error_that_fits_no_packet_is_dropped(
    world: Node, version: int, protocol: str, name: str, change: dict[str, Any]
) -> None:
    sent = out_packet(version, protocol)
    port = send_out(world, sent)
    left = changed(sent, source=(EXIT[version], port ^ change.get("port", 0)))
    if "source" in change:
        left.src = OTHER[version]
    if "destination" in change:
        left.dst = OTHER[version]
    reason = "FILTERED" if "destination" in change else "STRAY_ERROR"

    for header in headers(version):
        packet = error(version, ROUTER[version], EXIT[version], header, left, change.get("size"))
        is_dropped(world, "nat_in", packet, reason)


def test_an_error_ends_no_binding(world: Node, version: int, protocol: str) -> None:
    """RFC 4787, REQ-12; RFC 5382, REQ-10."""
    sent = out_packet(version, protocol)
    port = send_out(world, sent)
    for header in headers(version):
        left = changed(sent, source=(EXIT[version], port))
        world.run("nat_in", wire(error(version, ROUTER[version], EXIT[version], header, left, 8)))

    send_in(world, answer(version, protocol, port), (INNER[version], 40000))


def test_no_udp_checksum_inside_stays_none(world: Node, version: int, protocol: str) -> None:
    """RFC 768; the sum of the error itself comes out right all the same."""
    if protocol != "udp":
        return
    sent = out_packet(version, "udp")
    port = send_out(world, sent)
    left, inside = (changed(sent, hops=1, source=end) for end in ((EXIT[version], port), (INNER[version], 40000)))
    left.payload.chksum = inside.payload.chksum = 0

    for header in headers(version):
        result = world.run("nat_in", wire(error(version, ROUTER[version], EXIT[version], header, left, None)))
        assert result.output == wire(changed(error(version, ROUTER[version], INNER[version], header, inside, None)))


def test_padding_behind_an_error_is_no_part_of_it(world: Node, version: int, protocol: str) -> None:
    """Of eight bytes quoted the NAT knows no checksum, whatever follows the packet in its frame."""
    sent = out_packet(version, protocol)
    port = send_out(world, sent)
    left, inside = (changed(sent, hops=1, source=end) for end in ((EXIT[version], port), (INNER[version], 40000)))
    padding = bytes(range(1, 41))

    for header in headers(version):
        came = wire(error(version, ROUTER[version], EXIT[version], header, left, 8))
        expected = wire(changed(error(version, ROUTER[version], INNER[version], header, inside, 8)))
        assert world.run("nat_in", came + padding).output == expected + padding
