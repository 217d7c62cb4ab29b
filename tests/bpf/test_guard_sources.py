"""The guard and whom it turns away before it looks at anything else: blocked and bogus sources."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest

from jetplane.dataplane.lists import prefixes, tables
from jetplane.dataplane.lists.tables import Tables
from jetplane.dataplane.lists.write import write
from tests.bpf.conftest import NodeFactory
from tests.bpf.guard_packets import answer, dropped, echo_request, passed, wireguard
from tests.bpf.guard_world import BOUND, EXIT, NODE, SITE, SSH, WIREGUARD, prepare, refill_echo
from tests.bpf.harness import Node, Xdp
from tests.bpf.packets import FRAME, TCP, UDP, ip

BLOCKED = ("198.51.100.0/25", "192.0.2.200", "1.0.0.0/9", "2a01:4:5::/48", "2a01:4:5:6::7", "2001:db8:f:ffff::/64")
IN = {"198.51.100.7", "198.51.100.127", "192.0.2.200", "1.127.255.255", "2a01:4:5::1", "2001:db8:f:ffff::9"}
OUT = {"198.51.100.128", "192.0.2.199", "192.0.2.201", "1.128.0.0", "0.255.255.255", "2a01:4:6::", "2a01:4:4:ffff::1"}
BOGUS = {"10.0.0.1", "192.168.255.255", "100.64.0.1", "fd00::1", "2001:db8::1", "4000::1"}


@pytest.fixture(scope="module")
def listing(make_node: NodeFactory) -> Node:
    """A node with lists, of blocked prefixes only."""
    node = make_node(
        source="guard.bpf.c",
        guard={"bogons": True, "max_blocked": 1024, "handshakes_per_second": 0, "icmp_echo_per_second": 5},
    )
    node.reset()
    prepare(node)
    refill_echo(node)
    return node


def block(node: Node, texts: Sequence[str], *, bogons: bool = False) -> None:
    write(node.maps, listed(node, texts, bogons=bogons))


def listed(node: Node, texts: Sequence[str], *, bogons: bool = False) -> Tables:
    lines = node.maps["source_lines"].info.max_entries // 2
    return tables.make(map(prefixes.parse, texts), prefixes.bogons() if bogons else (), lines=lines)


def to_exit(source: str) -> bytes:
    version = ipaddress.ip_address(source).version
    return bytes(FRAME / ip(source, EXIT[version]) / answer(version, "udp", BOUND))


def to_node(source: str, kind: str) -> bytes:
    version = ipaddress.ip_address(source).version
    header = {
        "wireguard": UDP(sport=1, dport=WIREGUARD) / wireguard(1, 148),
        "echo": echo_request(version),
        "ssh": TCP(sport=1, dport=SSH, flags="S"),
    }[kind]
    return bytes(FRAME / ip(source, NODE[version]) / header)


@pytest.mark.parametrize("source", sorted(IN))
def test_a_blocked_source_gets_nowhere(listing: Node, source: str) -> None:
    block(listing, BLOCKED)
    for packet in (to_exit(source), *(to_node(source, kind) for kind in ("wireguard", "echo", "ssh"))):
        listing.check("guard", dropped(source, "BLOCKED", packet))


@pytest.mark.parametrize("source", sorted(OUT))
def test_its_neighbours_are_not_blocked(listing: Node, source: str) -> None:
    block(listing, BLOCKED)
    listing.check("guard", passed(source, to_exit(source)))


@pytest.mark.parametrize("source", sorted(BOGUS))
def test_a_bogus_source_is_refused_where_the_internet_comes_in(listing: Node, source: str) -> None:
    block(listing, (), bogons=True)
    refill_echo(listing)
    for packet in (to_exit(source), to_node(source, "wireguard"), to_node(source, "echo")):
        listing.check("guard", dropped(source, "BOGON", packet))


def test_what_a_line_has_no_room_for_is_found(listing: Node) -> None:
    """One address in each of as many /27s as there are entries; then whole /24s, of some of which not all did fit."""
    made = listed(listing, [f"20.{n >> 5}.{8 * n % 256}.{32 * (n % 8) + 1}" for n in range(2048)])
    assert made.leaves, "some line is full"
    write(listing.maps, made)
    for key, bits in sorted(made.leaves.items())[:5]:
        for number in range(256):
            source = str(ipaddress.IPv4Address(key << 8 | number))
            packet = to_exit(source)
            blocked = bits >> number & 1
            listing.check("guard", dropped(source, "BLOCKED", packet) if blocked else passed(source, packet))


def test_what_a_line_has_no_room_for_is_found_in_ipv6(listing: Node) -> None:
    """Twice as many /48s as the lines are made for, and the neighbours of those that did not fit."""
    made = listed(listing, [f"2a01:4:{n:x}::/48" for n in range(0, 4096, 2)])
    assert made.trie, "some line is full"
    write(listing.maps, made)
    full = {ipaddress.IPv6Address(first) for first, _ in made.trie}
    for source in (*map(str, sorted(full)[:5]), "2a01:4:0:1::1", "2a01:4:2:ffff::1"):
        listing.check("guard", dropped(source, "BLOCKED", to_exit(source)))
    for source in ("2a01:4:1::1", "2a01:4:3::1", *(str(address + (1 << 80)) for address in sorted(full)[:5])):
        listing.check("guard", passed(source, to_exit(source)))


LENGTHS = ("2a00:1000::/20", "2a01:10::/29", "2a02:1::/32", "2a03:1:8000::/33", "2a04:1:ff0::/43", "2a05:1:ff0::/44",
           "2a06:1:fff::/47", "2a07:1:1::/48", "2a08:1:1:8000::/49", "2a09::9/128")  # fmt: skip


@pytest.mark.parametrize("text", LENGTHS)
def test_a_prefix_of_any_length_ends_where_it_says(listing: Node, text: str) -> None:
    prefix = ipaddress.ip_network(text, strict=False)
    block(listing, (str(prefix), *("2a0a::/16", "2a0b:1:1:1::/64")))
    for address in (prefix[0], prefix[-1]):
        listing.check("guard", dropped(text, "BLOCKED", to_exit(str(address))))
    for address in (prefix[0] - 1, prefix[-1] + 1):
        listing.check("guard", passed(text, to_exit(str(address))))


def test_what_is_blocked_within_a_bogus_prefix_is_counted_as_blocked(listing: Node) -> None:
    """2001:2::/48 is for benchmarks (RFC 5180)."""
    block(listing, ("2001:2:0:1::/64",), bogons=True)
    listing.check("guard", dropped("blocked", "BLOCKED", to_exit("2001:2:0:1::1")))
    listing.check("guard", dropped("bogus", "BOGON", to_exit("2001:2:0:2::1")))
    listing.check("guard", passed("neither", to_exit("2001:4860::1")))


def test_a_service_may_be_open_to_private_addresses(listing: Node) -> None:
    """SITE's prefixes, to which SSH is open, are for documentation and so bogons themselves."""
    block(listing, (), bogons=True)
    for version in (4, 6):
        listing.check("guard", passed("ssh", to_node(SITE[version], "ssh")))


def test_a_list_that_is_gone_blocks_nobody(listing: Node) -> None:
    block(listing, BLOCKED)
    block(listing, ())
    for source in sorted(IN):
        listing.check("guard", passed(source, to_exit(source)))
    for name in ("source_leaves", "source_prefixes"):
        assert not list(listing.maps[name].items()), "the half of before is emptied"


def test_at_no_moment_of_a_change_is_a_source_let_in_that_both_lists_block(listing: Node) -> None:
    """Each step of a change is followed by packets: the old lists hold until the new ones do."""
    both = ("198.51.100.7", "2a01:4:5::1")
    before, after = (*both, "192.0.2.10", "2a01:9::9"), (*both, "192.0.2.20", "2a01:8::8")
    block(listing, before)
    old = dict.fromkeys(before, "BLOCKED") | dict.fromkeys(set(after) - set(before), "")
    new = dict.fromkeys(after, "BLOCKED") | dict.fromkeys(set(before) - set(after), "")
    seen: list[dict[str, str]] = []

    def look() -> None:
        seen.append({source: listing.run("guard", to_exit(source)).dropped or "" for source in old})

    watched = {name: Watched(handle, look) for name, handle in listing.maps.items()}
    write(watched, listed(listing, after))  # type: ignore[arg-type]
    look()
    turn = seen.index(new)
    assert turn > 1
    assert all(found == old for found in seen[:turn])
    assert all(found == new for found in seen[turn:])


class Watched:
    """A map that is looked at from outside whenever somebody takes hold of it."""

    def __init__(self, handle: object, look: object) -> None:
        self._handle, self._look = handle, look

    def __getattr__(self, name: str) -> object:
        self._look()  # type: ignore[operator]
        return getattr(self._handle, name)


def test_a_guard_that_observes_counts_the_same_and_drops_nothing(make_node: NodeFactory) -> None:
    node = make_node(source="guard.bpf.c", guard={"observe": True, "bogons": True})
    node.reset()
    prepare(node)
    block(node, BLOCKED)
    rows = {
        "BLOCKED": to_exit("198.51.100.7"),
        "NO_BINDING": bytes(FRAME / ip("8.8.8.8", EXIT[4]) / answer(4, "udp", 9)),
    }
    for reason, packet in rows.items():
        result = node.run("guard", packet)
        assert (result.verdict, dict(result.counted), result.output) == (Xdp.PASS, {reason: 1}, packet)
