"""Port 53: the node's resolver is reached, with steering in place of any other, and who was asked seems to answer."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jetplane import abi
from jetplane.dataplane.node import sweep_steered
from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Case, Node, Tc
from tests.bpf.nat_fragments import pieces, rejoined
from tests.bpf.nat_world import (
    EXIT_2,
    FAMILIES,
    INNER,
    INNER_2,
    NODE,
    OTHER,
    PEER,
    PEER_2,
    SITE,
    STRANGER,
    TICK_NS,
    TUNNEL,
    add_peer,
    change_peer,
    changed,
    ends,
    is_dropped,
    out_packet,
    prepare,
    query,
    send_out,
)
from tests.bpf.packets import (
    ICMP,
    TCP,
    UDP,
    ICMPv6DestUnreach,
    IPOption_NOP,
    Packet,
    Raw,
    dissect,
    ip,
    wire,
)
from tests.bpf.reported import reported

PROTOCOLS = ("udp", "tcp")
SECOND_TUNNEL = {4: "10.65.0.1", 6: "fd01::1"}
"""The node's own address there: no resolver is said to listen at it."""
PRIVATE = {4: "192.168.1.1", 6: "fdaa::1"}
"""As many a subscriber's resolver at home."""
FIRST, PORTS = (abi.constants()[name] for name in ("DNS_FIRST_PORT", "DNS_PORTS"))
HERE = [*TUNNEL.values()]
UDP_TICKS, TCP_TICKS = 10, 60
"""dns.h"""


@pytest.fixture
def serving(make_node: NodeFactory) -> Node:
    """A node with a resolver on the first tunnel that it does not force on anybody."""
    limits = {"new_flows_per_second": 10, "new_flows_burst": 20}
    return fresh(make_node(source="nat.bpf.c", dns={"service": True, "addresses": HERE}, policy=limits))


@pytest.fixture
def steering(make_node: NodeFactory) -> Node:
    """And one that does."""
    return fresh(make_node(source="nat.bpf.c", dns={"service": True, "addresses": HERE, "steer": True}))


def fresh(node: Node) -> Node:
    node.reset()
    return prepare(node)


def question(version: int, protocol: str, **given: Any) -> Packet:
    return out_packet(version, protocol, **{"dport": 53, "destination": SITE[version], **given})


def steered(node: Node, packet: Packet) -> int:
    """Send a question; assert that it went to the resolver, right in every bit; return the port that stands for it."""
    result = node.run("nat_out", wire(packet))
    assert (Tc(result.verdict), result.mark) == (Tc.OK, 0), f"counted: {dict(result.counted)}"
    (address, port), (resolver, at) = ends(result.output)
    assert (address, resolver, at) == (packet.src, TUNNEL[packet.version], 53)
    assert FIRST <= port < FIRST + PORTS
    assert result.output == wire(changed(packet, hops=0, source=(address, port), destination=(resolver, 53)))
    assert result.counted == {"DNS_QUESTIONS": 1, "DNS_STEERED": 1}
    return port


def reply(version: int, protocol: str, port: int, **given: Any) -> Packet:
    """What the resolver sends to a subscriber's port."""
    given = {"source": TUNNEL[version], "destination": INNER[version], "flags": "SA", "payload": b"told", **given}
    header = ip(given["source"], given["destination"], ttl=64)
    if protocol == "udp":
        return header / UDP(sport=53, dport=port) / given["payload"]
    return header / TCP(sport=53, dport=port, flags=given["flags"]) / given["payload"]


def restored(node: Node, packet: Packet, asked: str, port: int) -> None:
    """Let the resolver answer; assert that it left as from `asked` to the subscriber's own port."""
    result = node.run("dns_answer", wire(packet))
    assert Tc(result.verdict) is Tc.OK, f"counted: {dict(result.counted)}"
    assert result.output == wire(changed(packet, hops=0, source=(asked, 53), destination=(packet.dst, port)))
    assert not result.counted


def untouched(node: Node, program: str, packet: Packet, **context: int) -> None:
    result = node.run(program, wire(packet), **context)
    assert (Tc(result.verdict), result.output) == (Tc.OK, wire(packet)), f"counted: {dict(result.counted)}"


def held(node: Node) -> int:
    return len(node.maps["steered"].every_key())


def age(node: Node, ticks: int) -> None:
    """Make every entry older."""
    for key, entry in list(node.maps["steered"].items()):
        entry.tick = (entry.tick - ticks) & 0xFFFFFFFF
        node.maps["steered"].update(key, entry)


# Without steering.


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_service_address_is_reached_and_nothing_is_kept(serving: Node, version: int, protocol: str) -> None:
    packet = question(version, protocol, destination=TUNNEL[version])
    result = serving.run("nat_out", wire(packet))
    assert (Tc(result.verdict), result.output, result.mark) == (Tc.OK, wire(packet), 0)
    assert result.counted == {"DNS_QUESTIONS": 1}
    assert held(serving) == 0
    untouched(serving, "dns_answer", reply(version, protocol, 40000))


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_steering_other_resolvers_are_sites_as_any(serving: Node, version: int, protocol: str) -> None:
    send_out(serving, question(version, protocol))


@pytest.mark.parametrize("version", FAMILIES)
def test_a_node_without_the_service_takes_nothing(node: Node, version: int) -> None:
    prepare(node)
    for protocol in PROTOCOLS:
        is_dropped(node, "nat_out", question(version, protocol, destination=TUNNEL[version]), "TUNNEL_DESTINATION")
        untouched(node, "dns_answer", reply(version, protocol, FIRST))


def _refused() -> Iterator[Case]:
    """What the service opens is port 53 of its addresses and nothing else of the node."""

    def dropped(name: str, reason: str, packet: Packet) -> Case:
        return Case(f"{name} over ipv{packet.version}", wire(packet), Tc.SHOT, reason)

    for version in FAMILIES:
        here = {"destination": TUNNEL[version]}
        for protocol, port in itertools.product(PROTOCOLS, (52, 54, 853, 22, 0)):
            to = f"{protocol} port {port} of the service address"
            yield dropped(to, "TUNNEL_DESTINATION", out_packet(version, protocol, dport=port, **here))
        for protocol in PROTOCOLS:
            from_53 = out_packet(version, protocol, sport=53, dport=40000, **here)
            yield dropped(f"{protocol} from port 53 to the service address", "TUNNEL_DESTINATION", from_53)
            stranger = question(version, protocol, source=STRANGER[version], **here)
            yield dropped(f"{protocol} of nobody's address", "UNKNOWN_SOURCE", stranger)
            for name, address in (
                ("the uplink's address", NODE[version]),
                ("the other tunnel's address", SECOND_TUNNEL[version]),
                ("another subscriber", INNER_2[version]),
            ):
                packet = question(version, protocol, destination=address)
                yield dropped(f"{protocol} port 53 of {name}", "TUNNEL_DESTINATION", packet)
            cut = pieces(question(version, protocol, payload=bytes(900), **here))
            yield dropped(f"a first fragment, {protocol}", "FRAGMENT", cut[0])
            yield dropped(f"a later fragment, {protocol}", "TUNNEL_DESTINATION", cut[1])
        short = ip(INNER[version], TUNNEL[version], **({"proto": 17} if version == 4 else {"nh": 17}))
        yield dropped("half a udp header", "TUNNEL_DESTINATION", short / Raw(b"\x9c\x40\x00\x35"))
        half = ip(INNER[version], TUNNEL[version], **({"proto": 6} if version == 4 else {"nh": 6}))
        yield dropped("half a tcp header", "MALFORMED", half / Raw(bytes(TCP(sport=40000, dport=53))[:12]))
    options = question(4, "udp", destination=TUNNEL[4])
    options.options = [IPOption_NOP()]
    yield dropped("ipv4 options", "OPTIONS", options)


REFUSED = tuple(_refused())


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_the_service_opens_port_53_and_nothing_else(serving: Node, case: Case) -> None:
    serving.check("nat_out", case)


def test_a_question_costs_as_much_as_a_flow(serving: Node) -> None:
    bucket = serving.maps["new_flows"].value(paid_until_ns=1 << 62)
    serving.maps["new_flows"].update(PEER, bucket)
    for protocol in PROTOCOLS:
        is_dropped(serving, "nat_out", question(4, protocol, destination=TUNNEL[4]), "NEW_FLOWS")
    untouched(serving, "nat_out", question(4, "tcp", destination=TUNNEL[4], flags="A"))
    untouched(serving, "nat_out", question(4, "udp", destination=TUNNEL[4], source=INNER_2[4]))


def test_questions_are_part_of_what_a_peer_may_send(serving: Node) -> None:
    up = serving.maps["peers"].lookup(PEER).up
    up.paid_until_ns = 1 << 62
    change_peer(serving, PEER, rate_up=1, up=up)
    is_dropped(serving, "nat_out", question(4, "udp", destination=TUNNEL[4]), "RATE")


# With steering.


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_question_to_another_resolver_is_answered_by_the_nodes_as_if_by_that_one(
    steering: Node, version: int, protocol: str
) -> None:
    port = steered(steering, question(version, protocol))
    restored(steering, reply(version, protocol, port), SITE[version], 40000)


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_wherever_it_was_sent_it_does_not_leave(steering: Node, version: int, protocol: str) -> None:
    """Not by way of what is denied, of the node, of another subscriber or of his exit address, nor on its last hop."""
    places = (PRIVATE, NODE, SECOND_TUNNEL, INNER_2, EXIT_2)
    for place in places:
        port = steered(steering, question(version, protocol, destination=place[version]))
        restored(steering, reply(version, protocol, port), place[version], 40000)
    steered(steering, question(version, protocol, ttl=1, sport=40001))
    # A connection that began before the node steered.
    if protocol == "tcp":
        is_dropped(steering, "nat_out", question(version, protocol, flags="A", sport=40002), "DNS_SESSION")


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pieces_of_a_question_do_not_leave_as_a_beginning(steering: Node, version: int, protocol: str) -> None:
    is_dropped(steering, "nat_out", pieces(question(version, protocol, payload=bytes(900)))[0], "FRAGMENT")


def test_what_no_router_forwards_is_not_steered(steering: Node) -> None:
    for address in ("127.0.0.1", "224.0.0.251", "169.254.169.253"):
        is_dropped(steering, "nat_out", question(4, "udp", destination=address), "UNROUTABLE")


@pytest.mark.parametrize("version", FAMILIES)
def test_other_ports_and_pings_leave_as_ever(steering: Node, version: int) -> None:
    for packet in (out_packet(version, "udp", dport=54), out_packet(version, "tcp", dport=853, sport=40053)):
        send_out(steering, packet)
    send_out(steering, ip(INNER[version], SITE[version], ttl=64) / query(version, 53))


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_port_may_ask_several_and_each_answers_for_itself(steering: Node, version: int, protocol: str) -> None:
    """musl's resolver does so: all servers at once, from one socket."""
    asked = [SITE[version], OTHER[version], NODE[version], PRIVATE[version]]
    ports = [steered(steering, question(version, protocol, destination=address)) for address in asked]
    assert len(set(ports)) == len(ports)
    untouched(steering, "nat_out", question(version, protocol, destination=TUNNEL[version]))
    untouched(steering, "dns_answer", reply(version, protocol, 40000))
    for address, port in reversed(list(zip(asked, ports, strict=True))):
        restored(steering, reply(version, protocol, port), address, 40000)


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_uses_a_port_that_stands_for_others_gets_his_own_answers_too(
    steering: Node, version: int, protocol: str
) -> None:
    other = steered(steering, question(version, protocol))
    port = steered(steering, question(version, protocol, destination=TUNNEL[version], sport=other))
    assert port != other
    restored(steering, reply(version, protocol, port), TUNNEL[version], other)
    restored(steering, reply(version, protocol, other), SITE[version], 40000)


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_answer_to_one_subscriber_is_never_anothers(steering: Node, version: int, protocol: str) -> None:
    port = steered(steering, question(version, protocol))
    theirs = reply(version, protocol, port, destination=INNER_2[version])
    is_dropped(steering, "dns_answer", theirs, "DNS_SESSION")
    steered(steering, question(version, protocol, source=INNER_2[version], destination=OTHER[version]))
    restored(steering, reply(version, protocol, port), SITE[version], 40000)


def test_an_answer_to_one_address_of_a_subscriber_is_not_his_other_ones(steering: Node) -> None:
    second = "10.64.3.5"
    add_peer(steering, PEER, (INNER[4], second))
    port = steered(steering, question(4, "udp"))
    is_dropped(steering, "dns_answer", reply(4, "udp", port, destination=second), "DNS_SESSION")
    restored(steering, reply(4, "udp", port), SITE[4], 40000)


@pytest.mark.parametrize("version", FAMILIES)
def test_protocols_do_not_answer_for_each_other(steering: Node, version: int) -> None:
    port = steered(steering, question(version, "udp"))
    is_dropped(steering, "dns_answer", reply(version, "tcp", port), "DNS_SESSION")


@pytest.mark.parametrize("version", FAMILIES)
def test_an_entry_ends_with_its_last_answer(steering: Node, version: int) -> None:
    """A and AAAA go from one port; each is answered once."""
    port = steered(steering, question(version, "udp"))
    assert steered(steering, question(version, "udp")) == port
    assert held(steering) == 1
    (told,) = reported(steering, [INNER[version]])["questions"]
    assert (told["protocol"], told["inner"], told["asked"]) == ("udp", f"{INNER[version]} port 40000", SITE[version])
    for _ in range(2):
        restored(steering, reply(version, "udp", port), SITE[version], 40000)
    assert held(steering) == 0
    is_dropped(steering, "dns_answer", reply(version, "udp", port), "DNS_SESSION")


def test_questions_that_the_kernel_has_joined_are_counted_apart(steering: Node) -> None:
    packet = question(4, "udp", payload=bytes(64))
    result = steering.run("nat_out", wire(packet), gso_segs=2, gso_size=32)
    (_, port), _ = ends(result.output)
    for left in (1, 0):
        restored(steering, reply(4, "udp", port), SITE[4], 40000)
        assert held(steering) == left


@pytest.mark.parametrize("version", FAMILIES)
def test_a_datagram_without_a_checksum_has_none_afterwards(steering: Node, version: int) -> None:
    """IPv4's may: RFC 768."""
    packet = question(version, "udp")
    if version == 4:
        packet[UDP].chksum = 0
    result = steering.run("nat_out", wire(packet))
    assert (dissect(result.output)[UDP].chksum == 0) is (version == 4)


@pytest.mark.parametrize("version", FAMILIES)
def test_a_connection_goes_on_and_ends(steering: Node, version: int) -> None:
    port = steered(steering, question(version, "tcp", flags="S"))
    restored(steering, reply(version, "tcp", port), SITE[version], 40000)
    for flags in ("A", "PA", "FA"):
        assert steered(steering, question(version, "tcp", flags=flags)) == port
        restored(steering, reply(version, "tcp", port, flags=flags), SITE[version], 40000)
    assert steered(steering, question(version, "tcp", flags="A")) == port, "the last acknowledgement"
    age(steering, UDP_TICKS)
    is_dropped(steering, "nat_out", question(version, "tcp", flags="A"), "DNS_SESSION")
    assert steered(steering, question(version, "tcp", flags="S")) > 0


def _ended(version: int, protocol: str) -> Iterator[tuple[str, Callable[[Node], object]]]:
    limit = UDP_TICKS if protocol == "udp" else TCP_TICKS
    yield "time", lambda node: age(node, limit)
    yield "peer", lambda node: change_peer(node, PEER, generation=2)


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_entry_ends_with_its_time_and_with_its_peer(steering: Node, version: int, protocol: str) -> None:
    for _, end in _ended(version, protocol):
        fresh(steering)
        port = steered(steering, question(version, protocol))
        age(steering, UDP_TICKS // 2)
        assert swept(steering) == 0
        end(steering)
        is_dropped(steering, "dns_answer", reply(version, protocol, port), "DNS_SESSION")
        assert swept(steering) == 1
        assert held(steering) == 0


def swept(node: Node) -> int:
    return sweep_steered(node.descriptor("sweep_steered"), b"".join(node.maps["steered"].every_key()))


def test_the_sweep_takes_what_is_due_and_nothing_else(steering: Node) -> None:
    for sport in range(40000, 40100):
        steering.run("nat_out", wire(question(4, "udp", sport=sport)))
    before = held(steering)
    assert before > 50
    age(steering, UDP_TICKS)
    steered(steering, question(4, "udp", source=INNER_2[4]))
    assert swept(steering) == before
    assert held(steering) == 1


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_has_too_many_unanswered_questions_is_refused_and_no_other(
    steering: Node, version: int, protocol: str
) -> None:
    other = steering.maps["steered"].value(generation=1, tick=time.monotonic_ns() // TICK_NS, waiting=1)
    kind = (("tcp", "udp").index(protocol) << 1 | FAMILIES.index(version)) << 16
    places = [struct.pack("<II", PEER, kind | port) for port in range(FIRST, FIRST + PORTS)]
    steering.maps["steered"].update_many((key, other) for key in places)
    is_dropped(steering, "nat_out", question(version, protocol), "DNS_FULL")
    assert held(steering) == PORTS
    steered(steering, question(version, protocol, source=INNER_2[version]))
    steered(steering, question(10 - version, protocol))
    age(steering, TCP_TICKS)
    steered(steering, question(version, protocol))


def test_no_question_leaves_when_the_table_is_full(steering: Node) -> None:
    value = steering.maps["steered"].value(generation=1, tick=0)
    size = steering.maps["steered"].info.max_entries
    keys = (n.to_bytes(8, "little") for n in range(1 << 40, (1 << 40) + size))
    steering.maps["steered"].update_many((key, value) for key in keys)
    is_dropped(steering, "nat_out", question(4, "udp"), "DNS_FULL")
    steering.maps["steered"].delete_many(steering.maps["steered"].every_key())
    steered(steering, question(4, "udp"))


@pytest.mark.parametrize("version", FAMILIES)
def test_an_answer_in_fragments_leaves_with_the_right_source_in_all_of_them(steering: Node, version: int) -> None:
    port = steered(steering, question(version, "udp"))
    told = reply(version, "udp", port, payload=bytes(range(256)) * 5)
    frames = []
    for fragment in pieces(told):
        result = steering.run("dns_answer", wire(fragment))
        assert Tc(result.verdict) is Tc.OK and not result.counted
        frames.append(result.output)
    whole = rejoined(frames)
    assert (whole.source, whole.destination) == (SITE[version], INNER[version])
    expected = changed(told, hops=0, source=(SITE[version], 53), destination=(INNER[version], 40000))
    assert whole.payload == wire(expected, ethernet=False)[20 if version == 4 else 40 :]
    assert held(steering) == 0


def unreachable(version: int, packet: Packet) -> Packet:
    """What the node's stack says when nobody listens."""
    error = ICMP(type=3, code=3) if version == 4 else ICMPv6DestUnreach(code=4)
    return ip(TUNNEL[version], INNER[version], ttl=64) / error / Raw(wire(packet, ethernet=False))


@pytest.mark.parametrize("version", FAMILIES)
def test_that_nobody_listens_is_told_as_if_by_whom_the_subscriber_asked(steering: Node, version: int) -> None:
    packet = question(version, "udp")
    port = steered(steering, packet)
    inside = changed(packet, hops=0, source=(INNER[version], port), destination=(TUNNEL[version], 53))
    result = steering.run("dns_answer", wire(unreachable(version, inside)))
    expected = unreachable(version, packet)
    expected.src = SITE[version]
    assert (Tc(result.verdict), result.counted) == (Tc.OK, {"ICMP_ERRORS": 1})
    assert result.output == wire(expected)
    assert held(steering) == 0
    is_dropped(steering, "dns_answer", unreachable(version, inside), "STRAY_ERROR")
    direct = question(version, "udp", destination=TUNNEL[version])
    untouched(steering, "dns_answer", unreachable(version, direct))


@pytest.mark.parametrize("version", FAMILIES)
def test_what_is_forwarded_to_a_subscriber_is_no_answer(steering: Node, version: int) -> None:
    """Nobody outside can pass for the resolver, and what comes back from sites is not looked at."""
    port = steered(steering, question(version, "udp"))
    untouched(steering, "dns_answer", reply(version, "udp", port), ingress_ifindex=1)
    untouched(steering, "dns_answer", reply(version, "udp", port, source=SITE[version]))
    assert held(steering) == 1


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("asked", [SITE, TUNNEL], ids=["steered", "direct"])
def test_answers_follow_a_peer_that_has_moved_to_the_new_key(
    make_node: NodeFactory, version: int, asked: dict[int, str]
) -> None:
    dns = {"service": True, "addresses": HERE, "steer": True}
    node = fresh(make_node(source="nat.bpf.c", follower="jet0", dns=dns))
    for ifindex, verdict in ((1, Tc.OK), (9, Tc.REDIRECT)):
        change_peer(node, PEER, seen_ifindex=0)
        (_, port), _ = ends(node.run("nat_out", wire(question(version, "udp", destination=asked[version]))).output)
        change_peer(node, PEER, next_ifindex=ifindex, seen_ifindex=ifindex)
        result = node.run("dns_answer", wire(reply(version, "udp", port)))
        assert Tc(result.verdict) is verdict
        assert ends(result.output) == ((asked[version], 53), (INNER[version], 40000))


def test_the_second_peer_has_places_of_its_own(steering: Node) -> None:
    steered(steering, question(4, "udp"))
    steered(steering, question(4, "udp", source=INNER_2[4]))
    assert {int.from_bytes(key[:4], "little") for key in steering.maps["steered"].every_key()} == {PEER, PEER_2}
