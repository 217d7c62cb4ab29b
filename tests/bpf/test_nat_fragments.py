"""Fragments through the translation (RFC 4787, REQ-14): both families, both directions, in order and out of it."""

from __future__ import annotations

import ipaddress
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from jetplane import abi
from jetplane.dataplane.links import packed
from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Case, Node, Tc
from tests.bpf.nat_fragments import expect, external_port, piece, pieces, redirected, rejoined, through
from tests.bpf.nat_world import (
    EXIT,
    EXIT_2,
    FAMILIES,
    INNER,
    INNER_2,
    NO_EXIT,
    NODE,
    OTHER,
    PEER,
    PROTOCOLS,
    ROUTER,
    SITE,
    STRANGER,
    TICK_NS,
    answer,
    change_peer,
    is_dropped,
    out_packet,
    prepare,
    rewrite_life,
    send_out,
    slot_of,
    sweep,
)
from tests.bpf.packets import (
    ICMP,
    UDP,
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    IPOption_NOP,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    Packet,
    Raw,
    ip,
    wire,
)
from tests.bpf.reported import reported

each_family = pytest.mark.parametrize("version", FAMILIES)
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
HANDOVER_MARK = abi.constants()["HANDOVER_MARK"]
AGAIN_MARK = abi.constants()["FRAGMENT_AGAIN_MARK"]
OWN_ENTRIES = abi.constants()["FRAGMENTS_PER_PEER"]
PAYLOAD = bytes(range(256)) * 8
"""Five fragments."""
MTU = 1420
COARSE = 6
"""CLOCK_MONOTONIC_COARSE of linux/time.h: the clock that the programs read."""


@pytest.fixture
def world(node: Node) -> Node:
    """Second chances are spent: what has no first fragment is dropped at once."""
    impatient(prepare(node))
    return node


def patient(node: Node) -> None:
    """Let every CPU look at early fragments again."""
    node.fill("fragments_again", 0, bytes(8))


def impatient(node: Node) -> None:
    """Let no CPU do so."""
    node.fill("fragments_again", 0, (1 << 63).to_bytes(8, "little"))


def orders(parts: Sequence[Packet]) -> Iterator[list[Packet]]:
    """As they were sent, the other way round, and twice mixed up."""
    yield list(parts)
    yield list(reversed(parts))
    for seed in (1, 2):
        yield random.Random(seed).sample(parts, len(parts))


def entries(node: Node) -> int:
    """How many datagrams from outside are on their way in fragments."""
    return len(list(node.maps["fragments"].items()))


# From a subscriber.


@each_protocol
@each_family
def test_fragments_leave_in_any_order_and_make_the_translated_datagram(
    world: Node, version: int, protocol: str
) -> None:
    whole = out_packet(version, protocol, payload=PAYLOAD)
    for order in orders(pieces(whole)):
        frames = through(world, "nat_out", order)
        expect(frames, whole, source=(EXIT[version], external_port(frames)))
    assert entries(world) == 0


@each_family
def test_a_later_fragment_alone_leaves_nothing_behind(world: Node, version: int) -> None:
    redirected(world, "nat_out", pieces(out_packet(version, "udp", payload=PAYLOAD))[1])
    assert list(world.maps["endpoints"].items()) == []
    assert entries(world) == 0


@each_family
def test_fragments_and_whole_packets_share_a_port(world: Node, version: int) -> None:
    port = send_out(world, out_packet(version, "udp"))
    assert external_port(through(world, "nat_out", pieces(out_packet(version, "udp", payload=PAYLOAD)))) == port


def test_a_datagram_without_a_checksum_stays_without(world: Node) -> None:
    whole = out_packet(4, "udp", payload=PAYLOAD)
    whole[UDP].chksum = 0
    frames = through(world, "nat_out", pieces(whole))
    assert rejoined(frames).payload[6:8] == bytes(2)


def identification(node: Node, version: int, number: int, **given: str) -> int:
    """What a datagram's identification has become outside."""
    whole = out_packet(version, "udp", payload=PAYLOAD, **given)
    return rejoined(through(node, "nat_out", pieces(whole, identification=number))).identification


@each_family
def test_identifications_of_two_subscribers_do_not_meet_but_by_chance(world: Node, version: int) -> None:
    """The same one of both, to the same site from the same exit address, is told apart there."""
    size = 1 << (16 if version == 4 else 32)
    ours = [identification(world, version, number) for number in (7, 8, size - 1)]
    theirs = identification(world, version, 7, source=INNER_2[version])
    elsewhere = identification(world, version, 7, destination=OTHER[version])

    assert len({ours[0], theirs, elsewhere, 7}) == 4
    assert [(number - ours[0]) % size for number in ours] == [0, 1, (size - 8) % size]


def test_a_whole_packet_keeps_its_identification(world: Node) -> None:
    whole = out_packet(4, "udp")
    whole.id = 99
    send_out(world, whole)


def test_an_atomic_fragment_is_a_whole_packet_and_keeps_its_header(world: Node) -> None:
    """RFC 6946."""
    whole = out_packet(6, "udp")
    atomic = whole.copy()
    atomic.remove_payload()
    atomic = atomic / IPv6ExtHdrFragment(id=99) / whole[UDP]
    result = redirected(world, "nat_out", atomic)
    port = int.from_bytes(result.output[62:64])
    wanted = atomic.copy()
    wanted.src, wanted.hlim, wanted[UDP].sport = EXIT[6], 63, port
    assert result.output == wire(wanted)

    back = answer(6, "udp", port)
    atomic = IPv6(src=SITE[6], dst=EXIT[6], hlim=60) / IPv6ExtHdrFragment(id=5) / back[UDP]
    wanted = atomic.copy()
    wanted.dst, wanted.hlim, wanted[UDP].dport = INNER[6], 59, 40000
    assert redirected(world, "nat_in", atomic).output == wire(wanted)
    assert entries(world) == 0


# From outside.


def reply(world: Node, version: int, protocol: str = "udp", **given: object) -> Packet:
    """A big answer to what PEER has sent; `given` as for `out_packet` of the question."""
    port = send_out(world, out_packet(version, protocol, **given))
    return answer(version, protocol, port, payload=PAYLOAD, flags="A")


@each_protocol
@each_family
def test_fragments_follow_their_first_one_in_any_order(world: Node, version: int, protocol: str) -> None:
    whole = reply(world, version, protocol)
    first, *later = pieces(whole)
    for order in orders(later):
        frames = through(world, "nat_in", [first, *order])
        expect(frames, whole, destination=(INNER[version], 40000))
        assert entries(world) == 0, "an entry ends with its datagram"


def comes_again(node: Node, packet: Packet) -> None:
    """Assert that a fragment is sent round once more, as it is."""
    result = node.run("nat_in", wire(packet))
    assert (Tc(result.verdict), result.mark) == (Tc.REDIRECT, AGAIN_MARK), f"counted: {dict(result.counted)}"
    assert (result.output, result.counted) == (wire(packet), {"FRAGMENTS_AGAIN": 1})


@each_protocol
@each_family
def test_what_comes_before_its_first_fragment_gets_a_second_chance(world: Node, version: int, protocol: str) -> None:
    """The whole burst the other way round: by the time that the others come again, the first has come."""
    whole = reply(world, version, protocol)
    patient(world)
    first, *later = pieces(whole)
    for part in reversed(later):
        comes_again(world, part)
    frames = through(world, "nat_in", [first]) + through(world, "nat_in", later[::-1], mark=AGAIN_MARK)
    expect(frames, whole, destination=(INNER[version], 40000))


@each_family
def test_there_is_no_third_chance(world: Node, version: int) -> None:
    part = pieces(reply(world, version))[1]
    patient(world)
    is_dropped(world, "nat_in", part, "FRAGMENT_STRAY", mark=AGAIN_MARK)


@each_family
def test_second_chances_run_out(world: Node, version: int) -> None:
    """A flood of strays takes them from others, and then gets none."""
    part = pieces(reply(world, version))[1]
    impatient(world)
    is_dropped(world, "nat_in", part, "FRAGMENT_STRAY")


@each_family
def test_what_comes_after_the_last_missing_fragment_is_dropped(world: Node, version: int) -> None:
    parts = pieces(reply(world, version))
    through(world, "nat_in", parts)
    is_dropped(world, "nat_in", parts[-1], "FRAGMENT_STRAY")


@each_family
def test_a_datagram_with_a_fragment_missing_ends_in_time(world: Node, version: int) -> None:
    parts = pieces(reply(world, version))
    through(world, "nat_in", [parts[0], parts[1], parts[-1]])
    assert entries(world) == 1
    tick = -1
    while tick != now():  # until the clock does not tick on in between
        tick = now()
        grow_old(world, 1)
        still = world.run("nat_in", wire(parts[2]))
    assert Tc(still.verdict) is Tc.REDIRECT
    grow_old(world, 2)
    is_dropped(world, "nat_in", parts[2], "FRAGMENT_STRAY")
    sweep(world)
    assert entries(world) == 0
    assert not any(bytes(held.key) != bytes(8 * OWN_ENTRIES) for _, held in world.maps["peer_fragments"].items())


def now() -> int:
    """The tick it is."""
    return time.clock_gettime_ns(COARSE) // TICK_NS & 0xFFFFFFFF


def grow_old(node: Node, ticks: int) -> None:
    """Let every entry be so old; less than 0: so young still."""
    for key, entry in list(node.maps["fragments"].items()):
        entry.tick = (now() - ticks) & 0xFFFFFFFF
        node.maps["fragments"].update(key, entry)


@each_family
def test_an_identification_may_come_round_again(world: Node, version: int) -> None:
    """Also when a fragment of the first datagram has got lost, and when the entry of that has grown old."""
    whole = reply(world, version)
    parts = pieces(whole)
    for age in (0, 1, 2):
        through(world, "nat_in", parts[:-2])
        grow_old(world, age)
        expect(through(world, "nat_in", parts), whole, destination=(INNER[version], 40000))
        assert entries(world) == 0


@each_family
def test_who_is_not_let_in_leaves_no_entry(world: Node, version: int) -> None:
    whole = reply(world, version)
    whole.src = OTHER[version]
    first, second, *_ = pieces(whole)
    is_dropped(world, "nat_in", first, "FILTERED")
    is_dropped(world, "nat_in", second, "FRAGMENT_STRAY")
    assert entries(world) == 0


@each_family
def test_what_is_kept_of_a_datagram_shows_no_address(world: Node, version: int) -> None:
    redirected(world, "nat_in", pieces(reply(world, version))[0])
    kept = b"".join(bytes(entry) + key.to_bytes(8) for key, entry in world.maps["fragments"].items())
    kept += bytes(world.maps["peer_fragments"].lookup(PEER))
    for address in (SITE, EXIT, INNER):
        assert telling(address[version]) not in kept


def telling(address: str) -> bytes:
    """Four bytes of an address that nothing else has by chance: the first of IPv6, since its last are mostly zeros."""
    return ipaddress.ip_address(address).packed[:4]


@each_family
def test_another_s_fragments_of_the_same_number_stay_another_s(world: Node, version: int) -> None:
    first, second, *_ = pieces(reply(world, version))
    redirected(world, "nat_in", first)
    for field, value in (("src", OTHER[version]), ("dst", EXIT_2[version])):
        other = second.copy()
        setattr(other, field, value)
        is_dropped(world, "nat_in", other, "FRAGMENT_STRAY")
    other = pieces(answer(version, "udp", 1, payload=PAYLOAD), identification=99)[1]
    is_dropped(world, "nat_in", other, "FRAGMENT_STRAY")
    redirected(world, "nat_in", second)


def test_protocols_count_apart_in_ipv4(world: Node) -> None:
    """RFC 791; in IPv6 an identification is of a pair of addresses (RFC 8200, section 4.5)."""
    udp, tcp = pieces(reply(world, 4)), pieces(reply(world, 4, "tcp"))
    redirected(world, "nat_in", udp[0])
    is_dropped(world, "nat_in", tcp[1], "FRAGMENT_STRAY")
    through(world, "nat_in", [tcp[0], udp[1], tcp[1]])


@each_family
def test_fragments_die_with_their_peer(world: Node, version: int) -> None:
    first, second, *_ = pieces(reply(world, version))
    redirected(world, "nat_in", first)
    change_peer(world, PEER, generation=2)
    is_dropped(world, "nat_in", second, "FRAGMENT_STRAY")


@each_family
def test_fragments_die_with_their_binding(world: Node, version: int) -> None:
    whole = reply(world, version)
    first, second, *_ = pieces(whole)
    redirected(world, "nat_in", first)
    slot = slot_of(version, "udp", whole[UDP].dport)
    rewrite_life(world, slot, age=310)
    is_dropped(world, "nat_in", second, "FRAGMENT_STRAY")


@each_family
def test_the_next_holder_of_a_port_inherits_no_fragments(world: Node, version: int) -> None:
    whole = reply(world, version)
    first, second, *_ = pieces(whole)
    redirected(world, "nat_in", first)
    slot = slot_of(version, "udp", whole[UDP].dport)
    binding = world.maps["bindings"].lookup(slot)
    binding.life += 1 << 40  # the sequence: its life is another
    world.maps["bindings"].update(slot, binding)
    is_dropped(world, "nat_in", second, "FRAGMENT_STRAY")


@each_family
def test_a_peer_has_entries_of_its_own_and_a_flood_of_its_own(world: Node, version: int) -> None:
    """Who floods one subscriber's port with first fragments takes nothing from another."""
    ours = reply(world, version)
    theirs = reply(world, version, source=INNER_2[version])
    waiting = [pieces(ours, identification=1000 + n) for n in range(OWN_ENTRIES)]
    through(world, "nat_in", [parts[0] for parts in waiting])
    for number in range(50):
        redirected(world, "nat_in", pieces(theirs, identification=number)[0])
    grow_old(world, -2)  # however long that took
    assert entries(world) == 2 * OWN_ENTRIES
    for parts in waiting:
        frames = through(world, "nat_in", parts[1:])
        assert len(frames) == 4
    assert entries(world) == OWN_ENTRIES
    through(world, "nat_in", pieces(theirs, identification=49)[1:])


@each_family
def test_two_cores_leave_no_entry_that_is_nobody_s(world: Node, version: int) -> None:
    """Every entry stands in its peer's list, so that a flood can never make more of them than the list has places."""
    whole = reply(world, version)
    frames = [wire(part) for number in range(40) for part in pieces(whole, 1024, identification=number % 20)]

    def hammer(seed: int) -> None:
        mixed = random.Random(seed).sample(frames, len(frames))
        for _ in range(10):
            for frame in mixed:
                world.spin("nat_in", frame, repeat=1)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listed = set(world.maps["peer_fragments"].lookup(PEER).key)
    assert {key for key, _ in world.maps["fragments"].items()} <= listed
    assert entries(world) <= OWN_ENTRIES


@each_family
def test_a_peer_s_oldest_datagram_gives_way_to_one_too_many(world: Node, version: int) -> None:
    whole = reply(world, version)
    waiting = [pieces(whole, identification=1000 + n) for n in range(OWN_ENTRIES + 1)]
    through(world, "nat_in", [parts[0] for parts in waiting])
    grow_old(world, -2)
    is_dropped(world, "nat_in", waiting[0][1], "FRAGMENT_STRAY")
    for parts in waiting[1:]:
        through(world, "nat_in", parts[1:])
    assert entries(world) == 0


@each_family
def test_what_two_bindings_claim_neither_gets(world: Node, version: int) -> None:
    """Somebody who sends under a site's address must not lead its fragments to another subscriber."""
    ours, theirs = pieces(reply(world, version)), pieces(reply(world, version, source=INNER_2[version]))
    through(world, "nat_in", [theirs[0], ours[0]])
    is_dropped(world, "nat_in", ours[1], "FRAGMENT_STRAY")
    is_dropped(world, "nat_in", theirs[1], "FRAGMENT_STRAY")
    grow_old(world, 2)
    through(world, "nat_in", ours[:2])


@each_family
def test_an_entry_that_has_become_another_s_does_not_go_with_its_first_owner_s(world: Node, version: int) -> None:
    whole = reply(world, version, source=INNER_2[version])
    theirs, ours = pieces(whole), pieces(reply(world, version))
    redirected(world, "nat_in", theirs[0])
    grow_old(world, 2)
    redirected(world, "nat_in", ours[0])
    for number in range(OWN_ENTRIES):
        redirected(world, "nat_in", pieces(whole, identification=number)[0])
    grow_old(world, -2)
    through(world, "nat_in", ours[1:])


@each_family
def test_a_connection_at_a_shared_port_may_come_in_fragments(make_node: NodeFactory, version: int) -> None:
    """`nat.tcp_reuse`: which subscriber's it is, the port tells only together with the remote."""
    reusing = {"tcp_reuse": True, "tcp_reuse_flows": 1024, "tcp_reuse_quota": 200, "block_quota": 1}
    node = make_node(nat={"max_bindings": 4096, "max_remotes": 4096, **reusing})
    node.reset()
    impatient(prepare(node))
    for number in range(abi.constants()["PORTS_PER_BLOCK"]):
        send_out(node, out_packet(version, "tcp", sport=2000 + number))
    whole = out_packet(version, "tcp", payload=PAYLOAD)
    frames = through(node, "nat_out", pieces(whole))
    port = external_port(frames)
    assert port >= abi.constants()["REUSE_FIRST_PORT"]
    expect(frames, whole, source=(EXIT[version], port))
    back = answer(version, "tcp", port, payload=PAYLOAD, flags="A")
    expect(through(node, "nat_in", pieces(back)), back, destination=(INNER[version], 40000))


@each_family
def test_later_fragments_do_not_refresh_a_binding(world: Node, version: int) -> None:
    whole = reply(world, version)
    slot = slot_of(version, "udp", whole[UDP].dport)
    rewrite_life(world, slot, age=100)
    before = world.maps["bindings"].lookup(slot).life
    through(world, "nat_in", pieces(whole))
    assert world.maps["bindings"].lookup(slot).life == before


@each_family
def test_fragments_to_another_subscriber_turn_round_at_the_exit(world: Node, version: int) -> None:
    """RFC 4787, REQ-9: out under one's own exit address, and in again as if from outside, one hop in all."""
    port = send_out(world, out_packet(version, "udp", source=INNER_2[version], destination=EXIT[version]), hops=0)
    whole = out_packet(version, "udp", destination=EXIT[version], dport=port, payload=PAYLOAD)
    turned = through(world, "nat_out", pieces(whole))
    ours = external_port(turned)
    frames = [world.run("nat_in", frame).output for frame in turned]
    expect(frames, whole, source=(EXIT[version], ours), destination=(INNER_2[version], 40000))


@each_family
def test_a_fragment_is_judged_by_its_own_size(world: Node, version: int) -> None:
    """One that does not fit into the tunnel is the stack's: to cut further in IPv4, to answer in IPv6."""
    whole = reply(world, version)
    whole[UDP].payload = Raw(bytes(3000))
    for parts, fits in ((pieces(whole, 1400 - 48 & ~7), True), (pieces(whole, 1448), False)):
        for part in parts[:2]:
            result = world.run("nat_in", wire(part))
            if fits:
                assert Tc(result.verdict) is Tc.REDIRECT, f"counted: {dict(result.counted)}"
                continue
            assert (Tc(result.verdict), result.mark) == (Tc.OK, HANDOVER_MARK)
            assert result.counted == {"HANDED_TO_STACK": 1}
            wanted = part.copy()
            wanted.dst = INNER[version]
            if part is parts[1]:
                assert result.output == wire(wanted)


@each_family
def test_a_later_fragment_on_its_last_hop_is_the_stack_s(world: Node, version: int) -> None:
    whole = reply(world, version)
    setattr(whole, "ttl" if version == 4 else "hlim", 1)
    first, second, *_ = pieces(whole)
    for part in (first, second):
        result = world.run("nat_in", wire(part))
        assert (Tc(result.verdict), result.mark) == (Tc.OK, HANDOVER_MARK)
    wanted = second.copy()
    wanted.dst = INNER[version]
    assert result.output == wire(wanted)


# Rows: what is refused, and by which name.


def dropped(name: str, reason: str, packet: Packet, given: Callable[[Node], object] | None = None) -> Case:
    return Case(name, wire(packet), Tc.SHOT, reason, given=given)


def passed(name: str, packet: Packet, given: Callable[[Node], object] | None = None) -> Case:
    return Case(name, wire(packet), Tc.OK, given=given)


def insane(version: int, packet: Callable[[str], Packet]) -> Iterator[tuple[str, str, Packet]]:
    """Fragments that no honest sender makes: (name, reason, packet); `packet` makes a whole one of a protocol."""
    udp, tcp = packet("udp"), packet("tcp")
    yield "a first fragment with half a udp header", "MALFORMED", piece(udp, 0, bytes(4), more=True)
    yield "a first fragment with a third of a tcp header", "FRAGMENT_TINY", piece(tcp, 0, bytes(8), more=True)
    yield "a first fragment without tcp's flags' end", "FRAGMENT_TINY", piece(tcp, 0, bytes(16), more=True)
    yield "a fragment over tcp's ports", "FRAGMENT_TINY", piece(tcp, 8, bytes(64), more=False)
    yield "a fragment over tcp's checksum", "FRAGMENT_TINY", piece(tcp, 16, bytes(64), more=True)
    yield "an empty later fragment", "MALFORMED", piece(udp, 64, b"", more=False)
    yield "an empty first fragment", "MALFORMED", piece(udp, 0, b"", more=True)
    yield "a middle fragment of an odd size", "MALFORMED", piece(udp, 64, bytes(20), more=True)
    yield "a fragment beyond the largest datagram", "MALFORMED", piece(udp, 65528, bytes(16), more=False)
    for number in (2, 47, 50, 51, 132, 33, 136, 60, 0):
        header = ip(udp.src, udp.dst, **({"proto": number} if version == 4 else {"nh": number})) / Raw(bytes(64))
        yield f"a later fragment of protocol {number}", "PROTOCOL", piece(header, 64, bytes(64), more=False)
        if number not in (0, 60) or version == 4:
            yield f"a first fragment of protocol {number}", "PROTOCOL", piece(header, 0, bytes(64), more=True)
    other = ip(udp.src, udp.dst, **({"proto": 58} if version == 4 else {"nh": 1})) / Raw(bytes(64))
    yield "a later fragment of the other family's icmp", "PROTOCOL", piece(other, 64, bytes(64), more=False)
    if version == 6:
        options = IPv6ExtHdrDestOpt(nh=17) / UDP(sport=40000, dport=443) / bytes(48)
        hidden = IPv6(src=udp.src, dst=udp.dst) / IPv6ExtHdrFragment(nh=60, m=1, id=9) / options
        yield "a first fragment with options before its ports", "PROTOCOL", hidden


def error(version: int, about: Packet) -> Packet:
    return ICMP(type=3, code=1) / about if version == 4 else ICMPv6DestUnreach() / about


def out_rows(version: int) -> Iterator[Case]:
    def part(place: int, **given: object) -> Packet:
        return pieces(out_packet(version, "udp", payload=PAYLOAD, **given))[place]

    def peer(**fields: int) -> Callable[[Node], None]:
        return lambda node: change_peer(node, PEER, **fields)

    def without_exit(node: Node) -> None:
        entry = node.maps["peers"].lookup(PEER)
        entry.exit_index[:] = (NO_EXIT, NO_EXIT)
        node.maps["peers"].update(PEER, entry)

    def overdrawn(node: Node) -> None:
        entry = node.maps["peers"].lookup(PEER)
        entry.rate_up, entry.up.paid_until_ns = 1000, 1 << 62
        node.maps["peers"].update(PEER, entry)

    for name, reason, packet in insane(version, lambda protocol: out_packet(version, protocol)):
        yield dropped(name, reason, packet)
    about = answer(version, "udp", 40000, destination=INNER[version], payload=PAYLOAD)
    yield dropped(
        "an icmp error in fragments", "FRAGMENT", pieces(ip(INNER[version], SITE[version]) / error(version, about))[0]
    )
    yield dropped("a later one of nobody's", "UNKNOWN_SOURCE", part(1, source=STRANGER[version]))
    yield dropped("a later one from another tunnel", "UNKNOWN_SOURCE", part(1), peer(tunnel_ifindex=9))
    yield dropped("a later one of a peer that is gone", "UNKNOWN_SOURCE", part(1), peer(tunnel_ifindex=0))
    yield dropped("a later one of a peer without an exit", "NO_EXIT", part(1), without_exit)
    yield dropped("a later one above the rate", "RATE", part(1), overdrawn)
    yield dropped("a later one to another subscriber", "TUNNEL_DESTINATION", part(1, destination=INNER_2[version]))
    yield dropped("a later one to the node", "TUNNEL_DESTINATION", part(1, destination=NODE[version]))
    unroutable = "169.254.169.254" if version == 4 else "fe80::1"
    yield dropped("a later one to nowhere", "UNROUTABLE", part(1, destination=unroutable))
    yield Case("a later one on its last hop", wire(part(1, ttl=1)), Tc.OK, "HANDED_TO_STACK", mark=HANDOVER_MARK)
    if version == 4:
        optioned = part(1)
        optioned.options = [IPOption_NOP()] * 4
        yield dropped("a later one with options", "OPTIONS", optioned)


def in_rows(version: int) -> Iterator[Case]:
    parts = pieces(answer(version, "udp", 40000, payload=PAYLOAD))
    tcp = pieces(answer(version, "tcp", 40000, payload=PAYLOAD))

    def owned(node: Node) -> None:
        node.maps["own_addresses"].update(packed(EXIT[version]), 1)

    for name, reason, packet in insane(version, lambda protocol: answer(version, protocol, 40000)):
        yield dropped(name, reason, packet)
    about = out_packet(version, "udp", source=EXIT[version], payload=PAYLOAD)
    whole = ip(ROUTER[version], EXIT[version]) / error(version, about)
    yield dropped("an icmp error in fragments", "FRAGMENT", pieces(whole)[0])
    yield dropped("a first one without a binding", "NO_BINDING", parts[0])
    yield dropped("a later one without a first", "FRAGMENT_STRAY", parts[1])
    yield passed("a first one to an address that is the node's too", parts[0], owned)
    yield passed("a later one to an address that is the node's too", parts[1], owned)
    yield dropped("a later one of tcp to an address that is the node's too", "FRAGMENT_STRAY", tcp[1], owned)
    looped = parts[1].copy()
    looped.src = EXIT_2[version]
    yield dropped("a subscriber's to an address that is the node's too", "FRAGMENT_STRAY", looped, owned)


def leak_rows(version: int) -> Iterator[Case]:
    for place, name in ((0, "a first"), (1, "a later")):
        for source, whose in ((EXIT, "an exit"), (NODE, "the node's")):
            part = pieces(out_packet(version, "udp", source=source[version], payload=PAYLOAD))[place]
            yield passed(f"{name} fragment from {whose} address", part)
        for source, whose in ((INNER, "an inner"), (SITE, "a site's")):
            part = pieces(out_packet(version, "udp", source=source[version], payload=PAYLOAD))[place]
            yield dropped(f"{name} fragment from {whose} address", "LEAK", part)
    if version == 6:
        later = pieces(answer(6, "udp", 40000, destination=INNER[6], payload=PAYLOAD))[1]
        told = IPv6(src=NODE[6], dst=SITE[6]) / ICMPv6PacketTooBig(mtu=MTU) / later
        yield dropped("the node's error about a later fragment of a subscriber's", "STRAY_ERROR", told)
        later.dst = NODE[6]
        yield passed("the node's error about its own", IPv6(src=NODE[6], dst=SITE[6]) / ICMPv6PacketTooBig() / later)


ROWS = [
    pytest.param(program, case, id=f"{program}-v{version}-{case}")
    for version in FAMILIES
    for program, rows in (("nat_out", out_rows), ("nat_in", in_rows), ("leak_guard", leak_rows))
    for case in rows(version)
]


@pytest.mark.parametrize(("program", "case"), ROWS)
def test_a_fragment_meets_its_verdict(world: Node, program: str, case: Case) -> None:
    world.check(program, case)


@each_family
def test_a_peer_s_rate_counts_later_fragments(world: Node, version: int) -> None:
    first, second, *_ = pieces(reply(world, version))
    redirected(world, "nat_in", first)
    peer = world.maps["peers"].lookup(PEER)
    peer.rate_down, peer.down.paid_until_ns = 1000, 1 << 62
    world.maps["peers"].update(PEER, peer)
    is_dropped(world, "nat_in", second, "RATE")


@each_family
def test_the_node_s_error_about_a_first_fragment_speaks_of_the_exit(world: Node, version: int) -> None:
    """What the stack says of a fragment that was handed to it."""
    whole = reply(world, version)
    whole[UDP].payload = Raw(bytes(3000))
    first = pieces(whole, 1448)[0]
    handed = world.run("nat_in", wire(first)).output[14:]
    about, outside = (handed[:28], wire(first)[14 : 14 + 28]) if version == 4 else (handed[:1000], wire(first)[14:1014])
    kind = ICMP(type=11, code=0) if version == 4 else ICMPv6PacketTooBig(mtu=MTU)
    told = ip(NODE[version], SITE[version]) / kind
    result = world.run("leak_guard", wire(told / Raw(about)))
    assert Tc(result.verdict) is Tc.OK
    assert result.output == wire(told / Raw(outside))


@each_family
def test_a_report_tells_of_datagrams_on_their_way_and_of_no_one_elses(world: Node, version: int) -> None:
    def of(inner: dict[int, str]) -> list[dict[str, object]]:
        return list(reported(world, inner.values())["fragments"])

    port, other = (send_out(world, out_packet(version, "udp", source=i[version])) for i in (INNER, INNER_2))
    (first, *later), (foreign, *_) = (
        pieces(answer(version, "udp", end, payload=PAYLOAD), identification=number)
        for end, number in ((port, 1), (other, 2))
    )
    for part in (first, foreign):
        redirected(world, "nat_in", part)
    (mine,), (theirs,) = of(INNER), of(INNER_2)
    assert isinstance(mine["first_came_s_ago"], int) and mine["datagram"] != theirs["datagram"]
    assert {mine["datagram"], theirs["datagram"]} == {f"{key:016x}" for key, _ in world.maps["fragments"].items()}

    through(world, "nat_in", later)
    assert of(INNER) == [{"datagram": mine["datagram"], "first_came_s_ago": None}], "its hash is left"
    sweep(world)
    assert of(INNER) == []
