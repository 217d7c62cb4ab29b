"""Protocols that share an address, and those that cannot and are refused by name, both ways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jetplane.dataplane.links import packed
from tests.bpf.harness import Case, Node, Tc
from tests.bpf.nat_world import (
    EXIT,
    FAMILIES,
    INNER,
    INNER_2,
    OTHER,
    ROUTER,
    SITE,
    TUNNEL,
    changed,
    ends,
    is_dropped,
    out_packet,
    prepare,
    send_in,
    send_out,
)
from tests.bpf.packets import ICMP, Packet, Raw, ip, wire

REFUSED = {
    "igmp": 2,
    "ipip": 4,
    "dccp": 33,
    "ipv6 in ip": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ospf": 89,
    "pim": 103,
    "l2tp": 115,
    "sctp": 132,
    "udp-lite": 136,
    "an experiment": 253,
}
"""Protocol numbers of IANA's registry; why each is refused, ebpf/flow.h says."""

OUT_SESSIONS = {4: (8, 13), 6: (128,)}
"""ICMP types that begin a session."""
IN_SESSIONS = {4: (0, 14), 6: (129,)}
"""Those that answer."""
ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
ICMP_NUMBER = {4: 1, 6: 58}


@pytest.fixture
def world(node: Node) -> Node:
    return prepare(node)


def carrying(source: str, destination: str, number: int, octets: bytes) -> Packet:
    """An IP packet of any protocol."""
    return ip(source, destination, **{"nh" if ":" in source else "proto": number}) / Raw(octets)


def out_rows(version: int) -> Iterator[Case]:
    for name, number in REFUSED.items():
        packet = carrying(INNER[version], SITE[version], number, bytes(40))
        yield Case(f"{name} to a site", wire(packet), Tc.SHOT, "PROTOCOL")
        packet = carrying(INNER[version], EXIT[version], number, bytes(40))
        yield Case(f"{name} to an exit address", wire(packet), Tc.SHOT, "PROTOCOL")
        packet = carrying(INNER[version], TUNNEL[version], number, bytes(40))
        yield Case(f"{name} to the node", wire(packet), Tc.SHOT, "TUNNEL_DESTINATION")
        packet = carrying(INNER[version], INNER_2[version], number, bytes(40))
        yield Case(f"{name} to another subscriber", wire(packet), Tc.SHOT, "TUNNEL_DESTINATION")
    packet = carrying(INNER[version], SITE[version], ICMP_NUMBER[10 - version], bytes(40))
    yield Case("icmp of the other family", wire(packet), Tc.SHOT, "PROTOCOL")
    for kind in set(range(256)) - {*OUT_SESSIONS[version], *ERRORS[version]}:
        packet = carrying(INNER[version], SITE[version], ICMP_NUMBER[version], bytes([kind]) + bytes(40))
        yield Case(f"icmp type {kind}", wire(packet), Tc.SHOT, "PROTOCOL")


def in_rows(version: int) -> Iterator[Case]:
    def owned(node: Node) -> None:
        node.maps["own_addresses"].update(packed(EXIT[version]), 1)

    for name, number in REFUSED.items():
        packet = carrying(SITE[version], EXIT[version], number, bytes(40))
        yield Case(f"{name} to an exit address", wire(packet), Tc.SHOT, "PROTOCOL")
        yield Case(f"{name} to an exit address that is the node's", wire(packet), Tc.OK, given=owned)
    packet = carrying(SITE[version], EXIT[version], ICMP_NUMBER[10 - version], bytes(40))
    yield Case("icmp of the other family", wire(packet), Tc.SHOT, "PROTOCOL")
    for kind in set(range(256)) - set(ERRORS[version]):
        packet = carrying(SITE[version], EXIT[version], ICMP_NUMBER[version], bytes([kind]) + bytes(40))
        yield Case(f"icmp type {kind} without a binding", wire(packet), Tc.SHOT, "NO_BINDING")


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize(("program", "rows"), [("nat_out", out_rows), ("nat_in", in_rows)])
def test_what_cannot_share_an_address_is_refused_by_name(world: Node, version: int, program: str, rows: object) -> None:
    for row in out_rows(version) if rows is out_rows else in_rows(version):
        world.check(program, row)
        world.maps["own_addresses"].delete(packed(EXIT[version]))
    assert list(world.maps["endpoints"].items()) == []


@pytest.mark.parametrize("version", FAMILIES)
def test_queries_alone_use_a_binding_and_only_answers_return_by_it(world: Node, version: int) -> None:
    """An identifier that is bound lets in no other message than an answer."""
    identifier = send_out(world, out_packet(version, "icmp"))
    for kind in set(range(256)) - {*IN_SESSIONS[version], *ERRORS[version]}:
        octets = bytes([kind, 0, 0, 0]) + identifier.to_bytes(2) + bytes(40)
        packet = carrying(SITE[version], EXIT[version], ICMP_NUMBER[version], octets)
        is_dropped(world, "nat_in", packet, "NO_BINDING")


def timestamp(source: str, destination: str, kind: int, identifier: int, **fields: int) -> Packet:
    """RFC 792, page 16."""
    return ip(source, destination, **fields) / ICMP(type=kind, id=identifier, seq=3, ts_ori=1, ts_rx=2, ts_tx=3)


def test_a_timestamp_is_a_query_as_an_echo_is(world: Node) -> None:
    """RFC 5508, REQ-1 to REQ-3: the same identifier, mapping and filter."""
    identifier = send_out(world, timestamp(INNER[4], SITE[4], 13, 40000))
    assert send_out(world, out_packet(4, "icmp")) == identifier
    send_in(world, timestamp(SITE[4], EXIT[4], 14, identifier, ttl=60), (INNER[4], 40000))
    is_dropped(world, "nat_in", timestamp(OTHER[4], EXIT[4], 14, identifier), "FILTERED")
    is_dropped(world, "nat_in", timestamp(SITE[4], EXIT[4], 13, identifier), "NO_BINDING")
    is_dropped(world, "nat_out", timestamp(INNER[4], SITE[4], 14, 40000), "PROTOCOL")


def test_an_error_about_a_timestamp_finds_its_way(world: Node) -> None:
    asked = timestamp(INNER[4], SITE[4], 13, 40000)
    outside = world.run("nat_out", wire(asked)).output[14:]
    result = world.run("nat_in", wire(ip(ROUTER[4], EXIT[4]) / ICMP(type=11) / Raw(outside)))
    assert Tc(result.verdict) is Tc.REDIRECT, f"counted: {dict(result.counted)}"
    inside = wire(changed(asked), ethernet=False)
    assert result.output == wire(ip(ROUTER[4], INNER[4], ttl=63) / ICMP(type=11) / Raw(inside))
    assert ends(wire(asked))[0] == (INNER[4], 40000)
