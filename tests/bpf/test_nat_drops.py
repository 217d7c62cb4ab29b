"""Everything the translation refuses or lets pass untouched: one row each, with its verdict and its one reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from jetplane.dataplane.links import packed
from tests.bpf.harness import Case, Node, Tc
from tests.bpf.nat_fragments import pieces
from tests.bpf.nat_world import (
    BLOCK_QUOTA,
    DYING,
    EXIT,
    EXIT_2,
    FAMILIES,
    INNER,
    INNER_2,
    NO_EXIT,
    NODE,
    PEER,
    PROHIBIT_MARK,
    PROTOCOLS,
    ROUTER,
    SITE,
    STRANGER,
    TUNNEL,
    TUNNEL_IFINDEX,
    answer,
    change_peer,
    out_packet,
    prepare,
    query,
    rewrite_life,
    send_out,
    slot_of,
)
from tests.bpf.packets import (
    ARP,
    ESP,
    FRAME,
    ICMP,
    UDP,
    Dot1Q,
    ICMPv6DestUnreach,
    ICMPv6ND_NS,
    IPOption_NOP,
    IPv6,
    IPv6ExtHdrRouting,
    Packet,
    ip,
    wire,
)

HANDOVER_MARK = 0x6A657401
PORT = 40000


def dropped(name: str, reason: str, packet: bytes | Packet, given: Callable[[Node], object] | None = None) -> Case:
    return Case(name, packet if isinstance(packet, bytes) else wire(packet), Tc.SHOT, reason, given=given)


def prohibited(name: str, reason: str, packet: Packet, given: Callable[[Node], object] | None = None) -> Case:
    """Dropped, and the stack is to say so."""
    return Case(name, wire(packet), Tc.OK, reason, mark=PROHIBIT_MARK, given=given)


def passed(name: str, packet: bytes | Packet, given: Callable[[Node], object] | None = None) -> Case:
    return Case(name, packet if isinstance(packet, bytes) else wire(packet), Tc.OK, given=given)


def cut(packet: Packet, size: int) -> Packet:
    """The packet with its IP payload cut to `size` bytes, lengths that fit."""
    whole = wire(packet, ethernet=False)
    header = packet.copy()
    header.remove_payload()
    start = len(header)
    payload = whole[start : start + size]
    if packet.version == 4:
        header.proto = whole[9]
    else:
        header.nh = whole[6]
    return header / payload


def malformed(version: int, packet: Callable[..., Packet]) -> Iterator[tuple[str, bytes | Packet]]:
    """Packets whose headers are cut short or contradict each other; `packet` makes a sound one of a protocol."""
    yield "a tcp header cut short", cut(packet("tcp"), 19)
    yield "a udp header cut short", cut(packet("udp"), 7)
    yield "an icmp header cut short", cut(packet("icmp"), 7)
    sound = bytearray(wire(packet("udp")))
    sound[14] = 0x55
    yield "another version than the frame says", bytes(sound)
    long = packet("udp")
    if version == 4:
        long.len = 2000
        short = bytearray(wire(packet("udp")))
        short[14] = 0x44
        yield "an internet header length below five", bytes(short)
        tight = packet("udp")
        tight.len = 19
        yield "a total length below the header's", tight
    else:
        long.plen = 2000
        extended = IPv6(src=packet("udp").src, dst=packet("udp").dst, nh=60) / bytes([17, 4, 0, 0, 0, 0, 0, 0])
        yield "an extension header cut short", extended
    yield "a length beyond the packet", long
    offset = packet("tcp")
    offset.payload.dataofs = 4
    yield "a tcp data offset below five", offset
    beyond = packet("tcp")
    beyond.payload.dataofs = 15
    yield "a tcp data offset beyond the packet", beyond


def unroutable(version: int) -> tuple[str, ...]:
    if version == 4:
        return "0.0.0.0", "127.0.0.1", "169.254.169.254", "224.0.0.251", "255.255.255.255"
    return "::", "::1", "fe80::1", "ff02::fb", "::ffff:198.51.100.7"


def exhaust_ports(node: Node) -> None:
    """Spend the quota of PEER: all its blocks are full."""
    for index in (0, 2):
        for protocol in range(len(PROTOCOLS)):
            held = node.maps["peer_blocks"].value()
            first = (index * 3 + protocol) * 1024 + 100
            for place in range(BLOCK_QUOTA):
                held.slot[place] = first + place + 1
                block = node.maps["blocks"].value()
                block.owner, block.used = PEER + 1, (1 << 64) - 1
                node.maps["blocks"].update(first + place, block)
            node.maps["peer_blocks"].update((PEER * 2 + index // 2) * 3 + protocol, held)


def fill_pools(node: Node) -> None:
    """Leave no block in any pool."""
    pool = node.maps["pools"].value()
    pool.taken[:] = [(1 << 64) - 1] * 16
    node.maps["pools"].update_many((index, pool) for index in range(12))


def fill_table(node: Node) -> None:
    """Leave no room for a binding."""
    size = node.maps["endpoints"].info.max_entries
    node.maps["endpoints"].update_many((n.to_bytes(20), 0) for n in range(1, size + 1))


def being_dissolved(version: int, protocol: str) -> Callable[[Node], None]:
    def given(node: Node) -> None:
        port = send_out(node, out_packet(version, protocol))
        rewrite_life(node, slot_of(version, protocol, port), state=DYING)

    return given


def bound(version: int, protocol: str) -> Callable[[Node], object]:
    return lambda node: send_out(node, out_packet(version, protocol))


def overdrawn(node: Node) -> None:
    """Let PEER have spent its rate for years ahead."""
    peer = node.maps["peers"].lookup(PEER)
    peer.rate_up = peer.rate_down = 1000
    peer.up.paid_until_ns = peer.down.paid_until_ns = 1 << 62
    node.maps["peers"].update(PEER, peer)


def told_too_often(node: Node) -> None:
    """Let PEER have had its answers for years ahead."""
    peer = node.maps["peers"].lookup(PEER)
    peer.answers.paid_until_ns = 1 << 62
    node.maps["peers"].update(PEER, peer)


def set_peer(**fields: int) -> Callable[[Node], None]:
    return lambda node: change_peer(node, PEER, **fields)


def without_exit(node: Node) -> None:
    peer = node.maps["peers"].lookup(PEER)
    peer.exit_index[:] = (NO_EXIT, NO_EXIT)
    node.maps["peers"].update(PEER, peer)


def icmp_error(version: int, about: Packet) -> Packet:
    return ICMP(type=3, code=1) / about if version == 4 else ICMPv6DestUnreach() / about


def out_rows(version: int) -> Iterator[Case]:
    """From the tunnel."""

    def packet(protocol: str = "udp", **given: object) -> Packet:
        return out_packet(version, protocol, **given)

    for name, sick in malformed(version, packet):
        yield dropped(f"{name} is malformed", "MALFORMED", sick)
    for protocol in PROTOCOLS:
        yield dropped(
            f"{protocol} to another subscriber", "TUNNEL_DESTINATION", packet(protocol, destination=INNER_2[version])
        )
        yield dropped(
            f"{protocol} to the uplink's own address", "TUNNEL_DESTINATION", packet(protocol, destination=NODE[version])
        )
        yield dropped(
            f"{protocol} to the uplink's own address, with its last hop",
            "TUNNEL_DESTINATION",
            packet(protocol, destination=NODE[version], ttl=1),
        )
        yield dropped(
            f"{protocol} to the uplink's own address, from a port that is bound",
            "TUNNEL_DESTINATION",
            packet(protocol, destination=NODE[version]),
            bound(version, protocol),
        )
        yield dropped(
            f"{protocol} from an address that is nobody's", "UNKNOWN_SOURCE", packet(protocol, source=STRANGER[version])
        )
        yield dropped(
            f"{protocol} from a peer of another tunnel", "UNKNOWN_SOURCE", packet(protocol), set_peer(tunnel_ifindex=9)
        )
        yield dropped(
            f"{protocol} from a peer that is gone", "UNKNOWN_SOURCE", packet(protocol), set_peer(tunnel_ifindex=0)
        )
        yield prohibited(f"{protocol} from a peer without an exit", "NO_EXIT", packet(protocol), without_exit)
        yield prohibited(f"{protocol} beyond the quota of ports", "PORTS_EXHAUSTED", packet(protocol), exhaust_ports)
        yield prohibited(f"{protocol} when the pool is empty", "PORTS_EXHAUSTED", packet(protocol), fill_pools)
        yield prohibited(f"{protocol} when the table is full", "TABLE_FULL", packet(protocol), fill_table)
        yield dropped(
            f"{protocol} while its binding is dissolved", "BUSY", packet(protocol), being_dissolved(version, protocol)
        )
        yield dropped(f"{protocol} above the rate", "RATE", packet(protocol), overdrawn)
    for protocol in ("tcp", "udp"):
        yield dropped(f"{protocol} to the node", "TUNNEL_DESTINATION", packet(protocol, destination=TUNNEL[version]))
        yield prohibited(
            f"{protocol} from a system port when the pool is empty",
            "PORTS_EXHAUSTED",
            packet(protocol, sport=999),
            fill_pools,
        )
    yield passed("an echo to the node is delivered", packet("icmp", destination=TUNNEL[version]))
    yield dropped(
        "an echo reply to the node",
        "TUNNEL_DESTINATION",
        ip(INNER[version], TUNNEL[version]) / query(version, 7, reply=True),
    )
    for address in unroutable(version):
        yield dropped(f"to {address}", "UNROUTABLE", packet(destination=address))
    yield from policy_rows(version)
    yield dropped(
        "an echo reply to a site", "PROTOCOL", ip(INNER[version], SITE[version]) / query(version, 7, reply=True)
    )
    stray = answer(version, "udp", PORT, destination=INNER[version])
    yield dropped(
        "an icmp error about nothing", "STRAY_ERROR", ip(INNER[version], SITE[version]) / icmp_error(version, stray)
    )
    yield dropped(
        "an icmp error about another subscriber's packet",
        "STRAY_ERROR",
        ip(INNER_2[version], SITE[version]) / icmp_error(version, stray),
        lambda node: send_out(node, packet()),
    )
    for ttl in (0, 1):
        yield Case(
            f"a hop limit of {ttl} is the stack's to answer",
            wire(packet(ttl=ttl)),
            Tc.OK,
            "HANDED_TO_STACK",
            mark=HANDOVER_MARK,
        )
    yield passed("arp is the link's", ARP())
    if version == 4:
        optioned = packet()
        optioned.options = [IPOption_NOP()] * 4
        yield dropped("ip options", "OPTIONS", optioned)
    else:
        yield passed(
            "neighbour discovery is the link's",
            IPv6(src="fe80::2", dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt="fd00::1"),
        )
        yield dropped(
            "a routing header",
            "PROTOCOL",
            IPv6(src=INNER[6], dst=SITE[6]) / IPv6ExtHdrRouting(addresses=["2001:db8::9"]) / UDP(),
        )


def denied(version: int) -> tuple[str, ...]:
    """By the policy that is the default."""
    if version == 4:
        return "10.0.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255", "168.63.129.16"
    return "fd00:ec2::254", "fc00::1", "fdff::1", "64:ff9b::192.168.1.1", "2002:a9fe:a9fe::1", "64:ff9b:1::1"


def policy_rows(version: int) -> Iterator[Case]:
    """What the policy denies, whatever it looks like."""

    def packet(protocol: str = "udp", **given: object) -> Packet:
        return out_packet(version, protocol, **given)

    here = denied(version)[0]
    for address in denied(version):
        yield prohibited(f"to {address}", "POLICY_DESTINATION", packet(destination=address))
    for protocol in PROTOCOLS:
        to_it = packet(protocol, destination=here)
        yield prohibited(f"{protocol} to {here}", "POLICY_DESTINATION", to_it)
        yield prohibited(
            f"{protocol} to {here} from a port that is bound", "POLICY_DESTINATION", to_it, bound(version, protocol)
        )
        strange = packet(protocol, destination=here, source=STRANGER[version])
        yield dropped(f"{protocol} to {here} from nobody's address", "POLICY_DESTINATION", strange)
        yield dropped(
            f"{protocol} to {here} by another tunnel", "POLICY_DESTINATION", to_it, set_peer(tunnel_ifindex=9)
        )
        yield dropped(f"{protocol} to {here}, told too often", "POLICY_DESTINATION", to_it, told_too_often)
        last = packet(protocol, destination=here, ttl=1)
        yield prohibited(f"{protocol} to {here} on its last hop", "POLICY_DESTINATION", last)
    about = answer(version, "udp", PORT, source=here, destination=INNER[version])
    error = ip(INNER[version], here) / icmp_error(version, about)
    yield prohibited(f"an icmp error to {here}", "POLICY_DESTINATION", error)
    for order, part in zip(("first", "later"), pieces(packet(destination=here, payload=bytes(64)), 32), strict=False):
        yield dropped(f"a {order} fragment to {here}", "POLICY_DESTINATION", part)
    mail = packet("tcp", dport=25)
    yield prohibited("mail", "POLICY_PORT", mail)
    yield prohibited("mail from a port that is bound", "POLICY_PORT", mail, bound(version, "tcp"))
    yield prohibited("mail to an exit address", "POLICY_PORT", packet("tcp", dport=25, destination=EXIT_2[version]))
    first = pieces(packet("tcp", dport=25, payload=bytes(64)), 32)[0]
    yield dropped("mail, its first fragment", "POLICY_PORT", first)
    yield dropped("mail, told too often", "POLICY_PORT", mail, told_too_often)


def in_rows(version: int) -> Iterator[Case]:
    """From the uplink."""

    def packet(protocol: str = "udp", **given: object) -> Packet:
        return answer(version, protocol, PORT, **given)

    def owned(node: Node) -> None:
        node.maps["own_addresses"].update(packed(EXIT[version]), 1)

    for name, sick in malformed(version, packet):
        yield dropped(f"{name} is malformed", "MALFORMED", sick)
    for protocol in PROTOCOLS:
        yield passed(f"{protocol} to the node", packet(protocol, destination=NODE[version]))
        yield passed(f"{protocol} to nobody", packet(protocol, destination=SITE[version]))
        yield dropped(f"{protocol} to an inner address", "NOT_ALLOWED", packet(protocol, destination=INNER[version]))
        yield dropped(f"{protocol} without a binding", "NO_BINDING", packet(protocol))
        yield passed(f"{protocol} without a binding, to an address that is the node's too", packet(protocol), owned)
        yield dropped(
            f"{protocol} from a subscriber, to an address that is the node's too",
            "NO_BINDING",
            packet(protocol, source=EXIT_2[version]),
            owned,
        )
    yield dropped("an echo request", "NO_BINDING", ip(SITE[version], EXIT[version]) / query(version, PORT))
    yield dropped("esp", "PROTOCOL", ip(SITE[version], EXIT[version]) / ESP(spi=5, seq=1, data=bytes(24)))
    stray = out_packet(version, "udp", source=EXIT[version])
    yield dropped(
        "an icmp error about nothing", "STRAY_ERROR", ip(ROUTER[version], EXIT[version]) / icmp_error(version, stray)
    )
    yield passed(
        "an icmp error about the node's own packet",
        ip(ROUTER[version], EXIT[version]) / icmp_error(version, stray),
        owned,
    )
    yield Case("arp is the stack's to answer", wire(ARP()), Tc.OK, mark=HANDOVER_MARK)
    yield passed("a frame of a vlan", FRAME / Dot1Q(vlan=7) / packet())
    if version == 4:
        optioned = packet()
        optioned.options = [IPOption_NOP()] * 4
        yield dropped("ip options", "OPTIONS", optioned)
    else:
        asked = IPv6(src="fe80::9", dst=EXIT[6], hlim=255) / ICMPv6ND_NS(tgt=EXIT[6])
        yield Case("who asks for an exit address is the stack's to answer", wire(asked), Tc.OK, mark=HANDOVER_MARK)


def leak_rows(version: int) -> Iterator[Case]:
    """Towards the uplink."""
    for protocol in PROTOCOLS:
        for name, source in (("an inner", INNER), ("the tunnel's", TUNNEL), ("a site's", SITE)):
            yield dropped(
                f"{protocol} from {name} address",
                "LEAK",
                out_packet(version, protocol, source=source[version], destination=ROUTER[version]),
            )
        for name, source in (("an exit", EXIT), ("another exit", EXIT_2), ("the node's", NODE)):
            yield passed(f"{protocol} from {name} address", out_packet(version, protocol, source=source[version]))
    yield passed("arp", ARP())
    yield passed("from no address yet", out_packet(version, "udp", source="0.0.0.0" if version == 4 else "::"))
    if version == 4:
        yield dropped("from a link-local address", "LEAK", out_packet(4, "udp", source="169.254.1.1"))
    else:
        yield passed("from a link-local address", out_packet(6, "udp", source="fe80::1"))
    hidden = answer(version, "udp", PORT, destination=INNER[version])
    yield dropped(
        "the node's icmp error about a binding that is gone",
        "LEAK",
        ip(NODE[version], SITE[version]) / icmp_error(version, hidden),
    )
    for name, sick in malformed(version, lambda protocol: out_packet(version, protocol, source=EXIT[version])):
        if not name.startswith(("a tcp", "a udp", "an icmp")):
            yield dropped(f"{name} is malformed", "MALFORMED", sick)


ROWS = [
    pytest.param(program, case, id=f"{program}-v{version}-{case}")
    for version in FAMILIES
    for program, rows in (("nat_out", out_rows), ("nat_in", in_rows), ("leak_guard", leak_rows))
    for case in rows(version)
]


@pytest.mark.parametrize(("program", "case"), ROWS)
def test_a_packet_meets_its_verdict(node: Node, program: str, case: Case) -> None:
    prepare(node).check(program, case)
    if program == "leak_guard":
        node.check(program, case, ingress_ifindex=TUNNEL_IFINDEX)


def test_what_is_refused_leaves_no_binding_behind(node: Node) -> None:
    prepare(node)
    for case in (case for version in FAMILIES for case in out_rows(version)):
        if case.verdict is Tc.SHOT and case.given is None:
            node.check("nat_out", case)

    assert list(node.maps["endpoints"].items()) == []
