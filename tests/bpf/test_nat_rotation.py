"""While the node's key changes a peer may come by either of two interfaces; no other one is ever its own."""

from __future__ import annotations

import pytest

from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Node
from tests.bpf.nat_world import (
    FAMILIES,
    INNER,
    PEER,
    PROTOCOLS,
    TUNNEL_IFINDEX,
    answer,
    change_peer,
    is_dropped,
    out_packet,
    prepare,
    send_in,
    send_out,
    slots,
)

ELSEWHERE, NEITHER = 9, 8
"""Interfaces that no packet of these tests comes by."""


@pytest.fixture
def rotating(make_node: NodeFactory) -> Node:
    """A node with a tunnel that another follows."""
    node = make_node(source="nat.bpf.c", follower="jet0")
    node.reset()
    return prepare(node)


def seen(node: Node) -> int:
    return int(node.maps["peers"].lookup(PEER).seen_ifindex)


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_flow_moves_with_its_binding_from_either_interface_to_the_other(
    rotating: Node, version: int, protocol: str
) -> None:
    packet = out_packet(version, protocol)
    change_peer(rotating, PEER, next_ifindex=ELSEWHERE, seen_ifindex=ELSEWHERE)
    port = send_out(rotating, packet)
    assert seen(rotating) == TUNNEL_IFINDEX
    change_peer(rotating, PEER, tunnel_ifindex=ELSEWHERE, next_ifindex=TUNNEL_IFINDEX, seen_ifindex=0)
    assert send_out(rotating, packet) == port
    assert seen(rotating) == TUNNEL_IFINDEX
    assert len(slots(rotating)) == 1
    send_in(rotating, answer(version, protocol, port), (INNER[version], 40000))


@pytest.mark.parametrize("version", FAMILIES)
def test_a_third_interface_is_not_the_peers(rotating: Node, version: int) -> None:
    change_peer(rotating, PEER, tunnel_ifindex=ELSEWHERE, next_ifindex=NEITHER)
    is_dropped(rotating, "nat_out", out_packet(version, "udp"), "UNKNOWN_SOURCE")
    assert seen(rotating) == 0


def test_without_a_rotation_the_second_interface_means_nothing(make_node: NodeFactory) -> None:
    node = make_node(source="nat.bpf.c")
    node.reset()
    prepare(node)
    change_peer(node, PEER, tunnel_ifindex=ELSEWHERE, next_ifindex=TUNNEL_IFINDEX)
    is_dropped(node, "nat_out", out_packet(4, "udp"), "UNKNOWN_SOURCE")
