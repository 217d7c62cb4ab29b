"""Sessions through the translation: what leaves and what returns, in both families and all three protocols."""

from __future__ import annotations

import random

import pytest

from tests.bpf.harness import Node, Tc
from tests.bpf.nat_world import (
    EXIT,
    EXIT_2,
    FAMILIES,
    INNER,
    INNER_2,
    OTHER,
    PEER,
    PROTOCOLS,
    SITE,
    answer,
    change_peer,
    changed,
    is_dropped,
    out_packet,
    prepare,
    send_in,
    send_out,
)
from tests.bpf.packets import (
    TCP,
    UDP,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    dissect,
    ip,
    wire,
)

pytestmark = pytest.mark.parametrize("version", FAMILIES)
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture
def world(node: Node) -> Node:
    return prepare(node)


@every_protocol
def test_a_packet_leaves_from_the_exit_address_and_its_answer_returns(world: Node, version: int, protocol: str) -> None:
    port = send_out(world, out_packet(version, protocol))

    send_in(world, answer(version, protocol, port), (INNER[version], 40000))


@every_protocol
def test_the_mapping_is_the_same_for_every_remote(world: Node, version: int, protocol: str) -> None:
    """RFC 4787, REQ-1; RFC 5382, REQ-1; RFC 5508, REQ-1."""
    first = send_out(world, out_packet(version, protocol))
    second = send_out(world, out_packet(version, protocol, destination=OTHER[version], dport=80))

    assert first == second
    send_in(world, answer(version, protocol, first, source=OTHER[version], sport=80), (INNER[version], 40000))


@every_protocol
def test_two_subscribers_with_the_same_local_port_do_not_meet(world: Node, version: int, protocol: str) -> None:
    first = send_out(world, out_packet(version, protocol))
    second = send_out(world, out_packet(version, protocol, source=INNER_2[version]))

    assert first != second
    send_in(world, answer(version, protocol, first), (INNER[version], 40000))
    send_in(world, answer(version, protocol, second), (INNER_2[version], 40000))


@every_protocol
def test_protocols_have_ports_of_their_own(world: Node, version: int, protocol: str) -> None:
    port = send_out(world, out_packet(version, protocol))

    for other in set(PROTOCOLS) - {protocol}:
        is_dropped(world, "nat_in", answer(version, other, port), "NO_BINDING")


@every_protocol
def test_another_exit_address_is_another_mapping(world: Node, version: int, protocol: str) -> None:
    change_peer(world, PEER, exit_index=(type(world.maps["peers"].lookup(PEER).exit_index))(1, 3))
    port = send_out(world, out_packet(version, protocol), exits=EXIT_2)

    send_in(world, answer(version, protocol, port, destination=EXIT_2[version]), (INNER[version], 40000))
    is_dropped(world, "nat_in", answer(version, protocol, port, destination=EXIT[version]), "NO_BINDING")


@every_protocol
def test_any_payload_keeps_a_right_checksum(world: Node, version: int, protocol: str) -> None:
    """All lengths' parities, and sums that come out at the two zeros of ones' complement arithmetic."""
    chance = random.Random(1)
    for size in (*range(8), 63, 64, 577, 1300, 1301):
        payload = chance.choice((chance.randbytes(size), b"\xff" * size, bytes(size)))
        sport = chance.randrange(1024, 65536)
        port = send_out(world, out_packet(version, protocol, sport=sport, payload=payload))
        send_in(world, answer(version, protocol, port, payload=payload), (INNER[version], sport))


def test_a_udp_checksum_of_zero_is_written_as_all_ones(world: Node, version: int) -> None:
    """RFC 768. Two bytes of payload are made such that the sum after the translation comes out as zero."""
    port = send_out(world, out_packet(version, "udp"))
    translated = changed(out_packet(version, "udp", payload=bytes(2)), source=(EXIT[version], port))
    position = 14 + (20 if version == 4 else 40) + 6
    checksum = wire(translated)[position : position + 2]

    result = world.run("nat_out", wire(out_packet(version, "udp", payload=checksum)))

    assert result.output[position : position + 2] == b"\xff\xff"


def test_no_udp_checksum_stays_none(world: Node, version: int) -> None:
    out = ip(INNER[version], SITE[version]) / UDP(sport=40000, dport=53, chksum=0) / b"question"
    port = send_out(world, out)

    send_in(
        world,
        ip(SITE[version], EXIT[version]) / UDP(sport=53, dport=port, chksum=0) / b"reply",
        (INNER[version], 40000),
    )


@every_protocol
def test_the_traffic_class_is_kept(world: Node, version: int, protocol: str) -> None:
    """DSCP and ECN, in both directions."""
    for octet in (0xB8, 0x03, 0xFF):
        for program in ("out", "in"):
            packet = out_packet(version, protocol)
            port = send_out(world, packet)
            if program == "in":
                packet = answer(version, protocol, port)
            setattr(packet, "tos" if version == 4 else "tc", octet)
            if program == "out":
                send_out(world, packet)
            else:
                send_in(world, packet, (INNER[version], 40000))


@every_protocol
def test_the_last_hop_but_one_is_passed_on(world: Node, version: int, protocol: str) -> None:
    port = send_out(world, out_packet(version, protocol, ttl=2))

    send_in(world, answer(version, protocol, port, ttl=2), (INNER[version], 40000))


def test_a_packet_behind_extension_headers_is_translated(world: Node, version: int) -> None:
    """Of IPv6; of IPv4 nothing of the kind is let through."""
    if version == 4:
        return
    transports = ((UDP(sport=40000, dport=53) / b"question", UDP), (TCP(sport=40000, dport=53), TCP))
    for headers in (
        IPv6ExtHdrDestOpt(),
        IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(),
        IPv6ExtHdrFragment(id=5),
        IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(id=5),
    ):
        for transport, kind in transports:
            packet = IPv6(src=INNER[6], dst=SITE[6]) / headers / transport
            result = world.run("nat_out", wire(packet))
            assert Tc(result.verdict) is Tc.REDIRECT, f"counted: {dict(result.counted)}"
            expected = packet.copy()
            expected.src, expected.hlim = EXIT[6], 63
            expected[kind].sport = dissect(result.output)[kind].sport
            assert result.output == wire(expected)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_packet_for_another_subscriber_s_exit_turns_round(world: Node, version: int, protocol: str) -> None:
    """RFC 4787, REQ-9: it leaves from its own exit address and port, and comes in again by the uplink."""
    theirs = send_out(world, out_packet(version, protocol, source=INNER_2[version], destination=EXIT[version]), hops=0)
    packet = out_packet(version, protocol, destination=EXIT[version], dport=theirs)
    mine = send_out(world, packet, hops=0)

    send_in(world, changed(packet, hops=0, source=(EXIT[version], mine)), (INNER_2[version], 40000))
