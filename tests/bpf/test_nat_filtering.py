"""Whom a binding lets in (RFC 4787, section 5; RFC 5382, section 4.3): the three settings."""

from __future__ import annotations

from typing import Any

import pytest

from jetplane.dataplane.links import packed
from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Node, Tc
from tests.bpf.nat_world import (
    FAMILIES,
    INNER,
    OTHER,
    PROTOCOLS,
    SITE,
    answer,
    is_dropped,
    out_packet,
    prepare,
    send_in,
    send_out,
    slots,
)
from tests.bpf.packets import wire

pytestmark = pytest.mark.parametrize("version", FAMILIES)
MODES = ("endpoint-independent", "address", "address-and-port")


@pytest.fixture
def make_world(make_node: NodeFactory) -> Any:
    def make(mode: str) -> Node:
        node = make_node(source="nat.bpf.c", nat={"filtering": mode, "max_bindings": 4096, "max_remotes": 4096})
        node.reset()
        return prepare(node)

    return make


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("mode", "same_port", "other_port", "other_address"),
    [
        ("endpoint-independent", True, True, True),
        ("address", True, True, False),
        ("address-and-port", True, False, False),
    ],
)
def test_a_binding_lets_in_as_configured(
    make_world: Any, version: int, protocol: str, mode: str, same_port: bool, other_port: bool, other_address: bool
) -> None:
    world = make_world(mode)
    port = send_out(world, out_packet(version, protocol, dport=443))

    for packet, enters in (
        (answer(version, protocol, port, sport=443), same_port),
        # ICMP has no port: the address alone is asked for.
        (answer(version, protocol, port, sport=444), other_port or protocol == "icmp"),
        (answer(version, protocol, port, source=OTHER[version], sport=443), other_address),
    ):
        if enters:
            send_in(world, packet, (INNER[version], 40000))
        else:
            is_dropped(world, "nat_in", packet, "FILTERED")


@pytest.mark.parametrize("mode", MODES[1:])
def test_a_remote_is_remembered_however_many_there_are(make_world: Any, version: int, mode: str) -> None:
    world = make_world(mode)
    prefix = SITE[version].rpartition("." if version == 4 else ":")[0] + ("." if version == 4 else ":")
    sites = [f"{prefix}{number}" for number in range(10, 60)]
    ports = {send_out(world, out_packet(version, "udp", destination=site)) for site in sites}

    assert len(ports) == 1
    for site in sites:
        send_in(world, answer(version, "udp", min(ports), source=site), (INNER[version], 40000))


@pytest.mark.parametrize("mode", MODES[1:])
def test_a_filtered_packet_opens_nothing(make_world: Any, version: int, mode: str) -> None:
    world = make_world(mode)
    port = send_out(world, out_packet(version, "udp"))
    before = slots(world), bytes(world.maps["bindings"].lookup(slots(world)[0]))

    for _ in range(2):
        is_dropped(world, "nat_in", answer(version, "udp", port, source=OTHER[version]), "FILTERED")

    assert (slots(world), bytes(world.maps["bindings"].lookup(slots(world)[0]))) == before


def test_no_address_of_a_remote_is_kept(make_world: Any, version: int) -> None:
    """The maps hold keyed hashes only."""
    world = make_world("address-and-port")
    for number in range(8):
        site = SITE[version][:-1] + str(number + 1)
        send_out(world, out_packet(version, "udp", destination=site))
        wanted = packed(site)[12:] if version == 4 else packed(site)
        for name, handle in world.maps.items():
            if not handle.per_cpu and name not in ("bindings", "blocks"):
                assert not any(wanted in bytes(values) for chunk in handle.raw_chunks() for values in chunk), name
            if name == "bindings":
                assert not any(wanted in bytes(handle.lookup(slot)) for slot in slots(world))


def test_a_changed_secret_forgets_every_remote(make_world: Any, version: int) -> None:
    """The hashes mean something under their secret only."""
    world = make_world("address")
    port = send_out(world, out_packet(version, "udp"))
    world.maps["secrets"].update(0, b"another secret!!")

    assert Tc(world.run("nat_in", wire(answer(version, "udp", port))).verdict) is Tc.SHOT
