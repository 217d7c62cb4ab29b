"""Where an endpoint's binding was found last: believed only as far as the binding says so, and gone with it."""

from __future__ import annotations

import pytest

from tests.bpf.harness import Node
from tests.bpf.nat_world import (
    FAMILIES,
    INNER_2,
    PROTOCOLS,
    consistent,
    out_packet,
    prepare,
    rewrite_life,
    send_out,
    slot_of,
    slots,
    sweep,
)

pytestmark = pytest.mark.parametrize("version", FAMILIES)


@pytest.fixture
def world(node: Node) -> Node:
    return prepare(node)


def hints(node: Node) -> dict[int, int]:
    """Place → slot, of those that say something."""
    return {int(place): int(word) - 1 for place, word in node.maps["hints"].items() if word}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_second_packet_leaves_a_hint_and_the_end_takes_it_away(world: Node, version: int, protocol: str) -> None:
    port = send_out(world, out_packet(version, protocol))
    assert send_out(world, out_packet(version, protocol)) == port

    assert list(hints(world).values()) == [slot_of(version, protocol, port)]

    rewrite_life(world, *slots(world), age=10_000)
    assert sweep(world)[0] == 1
    assert hints(world) == {}, "nothing is left of it"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_hint_is_believed_that_leads_elsewhere(world: Node, version: int, protocol: str) -> None:
    """Another subscriber's binding, another protocol's, a free slot, and one that there is not."""
    mine = send_out(world, out_packet(version, protocol))
    send_out(world, out_packet(version, protocol, source=INNER_2[version]))
    for other in set(PROTOCOLS) - {protocol}:
        send_out(world, out_packet(version, other))
    wrong = [slot for slot in slots(world) if slot != slot_of(version, protocol, mine)]
    assert len(wrong) == len(PROTOCOLS)

    places = world.maps["hints"].info.max_entries
    for slot in (*wrong, wrong[0] ^ 1, 0, 0xFFFFFFFE):
        world.maps["hints"].update_many((place, slot + 1) for place in range(places))
        assert send_out(world, out_packet(version, protocol)) == mine
    consistent(world)


def test_a_hint_to_a_binding_of_its_own_that_has_ended_makes_a_new_one(world: Node, version: int) -> None:
    send_out(world, out_packet(version, "udp"))
    send_out(world, out_packet(version, "udp"))
    (slot,) = slots(world)
    rewrite_life(world, slot, age=10_000)

    port = send_out(world, out_packet(version, "udp"))

    assert slots(world) == [slot_of(version, "udp", port)]
    consistent(world)
