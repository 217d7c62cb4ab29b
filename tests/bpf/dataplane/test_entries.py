"""Peers, services and addresses in real maps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jetplane import abi
from jetplane.config import Service
from jetplane.dataplane import host
from jetplane.dataplane.node import DataPlane
from jetplane.model import V4_MAPPED, InnerAddress, Rate
from jetplane.plan import Entry, EntryStep, RemoveEntry, SetEntry
from tests.bpf.dataplane.conftest import ConfigFactory

A, B, C = (InnerAddress.parse(f"10.64.0.{n}") for n in (2, 3, 4))
A6 = InnerAddress.parse("fd64::2")


def entry(*addresses: InnerAddress, exits: tuple[int, int] = (0, 2), rate: Rate = Rate(), ifindex: int = 7) -> Entry:  # noqa: B008
    return Entry(tuple(sorted(addresses)), ifindex, exits, rate)


def observed(dataplane: DataPlane) -> dict[int, Entry]:
    return dict(dataplane.observe())


def generation(dataplane: DataPlane, index: int) -> int:
    return int(dataplane._map("peers").lookup(index).generation)


def test_what_is_set_is_observed(dataplane: DataPlane) -> None:
    wanted = {
        0: replace(entry(A, A6, rate=Rate(1, 2)), statistics=False),
        200: entry(B, exits=(1, abi.constants()["NO_EXIT"])),
    }
    dataplane.apply([SetEntry(index, e) for index, e in wanted.items()])
    assert observed(dataplane) == wanted


def test_a_removed_entry_leaves_nothing_but_a_new_generation(dataplane: DataPlane) -> None:
    dataplane.apply([SetEntry(5, entry(A, A6))])
    before = generation(dataplane, 5)
    dataplane.apply([RemoveEntry(5)])
    assert observed(dataplane) == {}
    assert list(dataplane._map("addresses").items()) == []
    peer = dataplane._map("peers").lookup(5)
    assert (peer.tunnel_ifindex, peer.generation, peer.rate_up) == (0, before + 1, 0)


KEEPS = (
    ("a rate", entry(A, rate=Rate(9, 9)), 0),
    ("a tunnel", entry(A, ifindex=8), 0),
    ("an objection to statistics", replace(entry(A), statistics=False), 0),
    ("an exit address", entry(A, exits=(1, 2)), 1),
    ("an address more", entry(A, B), 1),
    ("another address", entry(B), 1),
)


@pytest.mark.parametrize(("changed", "rise"), [row[1:] for row in KEEPS], ids=[row[0] for row in KEEPS])
def test_bindings_end_with_a_change_of(dataplane: DataPlane, changed: Entry, rise: int) -> None:
    dataplane.apply([SetEntry(5, entry(A))])
    before = generation(dataplane, 5)
    dataplane.apply([SetEntry(5, changed)])
    assert generation(dataplane, 5) == before + rise
    assert observed(dataplane) == {5: changed}


SEEN = (
    ("at one of its two interfaces it stays", 8, 7, 8, 8),
    ("at one of them that becomes the only one it stays", 8, 8, 0, 8),
    ("at an interface that is no longer its own it is forgotten", 8, 9, 0, 0),
)


@pytest.mark.parametrize(("at", "home", "other", "then"), [row[1:] for row in SEEN], ids=[row[0] for row in SEEN])
def test_where_the_data_path_saw_a_peer(dataplane: DataPlane, at: int, home: int, other: int, then: int) -> None:
    dataplane.apply([SetEntry(5, replace(entry(A), next_ifindex=8))])
    peer = dataplane._map("peers").lookup(5)
    peer.seen_ifindex = at
    dataplane._map("peers").update(5, peer)
    changed = replace(entry(A, rate=Rate(9, 9), ifindex=home), next_ifindex=other)
    dataplane.apply([SetEntry(5, changed)])
    assert observed(dataplane) == {5: changed}
    assert dataplane._map("peers").lookup(5).seen_ifindex == then
    assert generation(dataplane, 5) == peer.generation


def test_an_index_that_is_used_again_has_a_new_generation(dataplane: DataPlane) -> None:
    dataplane.apply([SetEntry(5, entry(A))])
    before = generation(dataplane, 5)
    dataplane.apply([RemoveEntry(5), SetEntry(5, entry(A))])
    assert generation(dataplane, 5) > before
    assert observed(dataplane) == {5: entry(A)}


def test_an_address_moves_to_another_peer_in_one_go(dataplane: DataPlane) -> None:
    dataplane.apply([SetEntry(1, entry(A)), SetEntry(2, entry(B, C))])
    dataplane.apply([SetEntry(1, entry(A, C)), SetEntry(2, entry(B))])
    assert observed(dataplane) == {1: entry(A, C), 2: entry(B)}


def test_two_peers_exchange_their_addresses(dataplane: DataPlane) -> None:
    dataplane.apply([SetEntry(1, entry(A)), SetEntry(2, entry(B))])
    dataplane.apply([SetEntry(1, entry(B)), SetEntry(2, entry(A))])
    assert observed(dataplane) == {1: entry(B), 2: entry(A)}


def test_the_tokens_of_a_kept_peer_stay_spent(dataplane: DataPlane) -> None:
    dataplane.apply([SetEntry(5, entry(A, rate=Rate(1, 1)))])
    peers = dataplane._map("peers")
    peer = peers.lookup(5)
    peer.up = type(peer.up).from_buffer_copy(b"\x11" * len(bytes(peer.up)))
    peers.update(5, peer)
    dataplane.apply([SetEntry(5, entry(A, rate=Rate(2, 2)))])
    assert bytes(peers.lookup(5).up) == bytes(peer.up)


def test_an_address_without_a_peer_is_observed_so_that_it_can_be_removed(dataplane: DataPlane) -> None:
    dataplane._map("addresses").update(bytes(A), 9)
    assert observed(dataplane)[9].addresses == (A,)
    dataplane.apply([RemoveEntry(9)])
    assert observed(dataplane) == {}


def test_a_full_table_is_written_and_removed_in_batches(dataplane: DataPlane) -> None:
    wanted = {n: entry(InnerAddress.parse(f"10.64.1.{n}"), InnerAddress.parse(f"fd64::1:{n:x}")) for n in range(256)}
    dataplane.apply([SetEntry(index, e) for index, e in wanted.items()])
    assert observed(dataplane) == wanted
    steps: list[EntryStep] = [RemoveEntry(n) for n in range(0, 256, 2)]
    dataplane.apply(steps)
    assert observed(dataplane) == {n: e for n, e in wanted.items() if n % 2}


def test_nothing_of_a_peer_is_in_its_printed_form(dataplane: DataPlane) -> None:
    dataplane.apply([SetEntry(5, entry(A))])
    assert "10.64" not in repr(observed(dataplane))


def test_the_sweep_looks_at_every_block_once(dataplane: DataPlane) -> None:
    """And at every word of 64 connections at reused ports."""
    places = 3 * 3 * abi.constants()["BLOCKS_PER_POOL"] + 3
    assert dataplane.sweep().live == places
    assert dataplane.sweep().live == places, "counted anew"
    assert dataplane._map("sweep_cursor").lookup(0).next_block == 2 * places, "and where it stands is kept"


def test_sweeps_show_every_remote_to_the_program(dataplane: DataPlane) -> None:
    """The program in these tests says how many it was shown; keys in more than one run."""
    remotes = dataplane._map("remotes")
    keys = [number.to_bytes(8) + bytes(8) for number in range(500)]
    remotes.update_many((key, 1) for key in keys)
    try:
        assert dataplane.sweep().forgotten == len(keys)
        assert dataplane.sweep().forgotten == len(keys), "again from the beginning"
    finally:
        remotes.delete_many(keys)
    assert dataplane.sweep().forgotten == 0


SERVICES = (
    Service(protocol="tcp", port=22, sources=("192.0.2.0/24", "2001:db8::/32")),
    Service(protocol="udp", port=161, sources=("0.0.0.0/0",)),
)


def admitted(dataplane: DataPlane, protocol: int, port: int, source: str) -> bool:
    services = dataplane._map("services")
    key = services.key(32 + 128, protocol, 0, int.from_bytes(port.to_bytes(2), "little"))
    key.source = type(key.source).from_buffer_copy(InnerAddress.parse(source))
    found = services.lookup(key)
    place = (protocol == 17) << 16 | port
    asked = dataplane._map("local_ports").lookup(place // 64).served >> place % 64 & 1
    return bool(asked) and found is not None and found.value != 0


ADMITTED = (
    ("from the prefix", 6, 22, "192.0.2.77", True),
    ("from the IPv6 prefix", 6, 22, "2001:db8:1::1", True),
    ("from elsewhere", 6, 22, "198.51.100.1", False),
    ("by another protocol", 17, 22, "192.0.2.77", False),
    ("at another port", 6, 23, "192.0.2.77", False),
    ("from all of IPv4", 17, 161, "198.51.100.1", True),
    ("from IPv6 where only IPv4 is", 17, 161, "2001:db8::1", False),
)


@pytest.mark.parametrize(("protocol", "port", "source", "so"), [r[1:] for r in ADMITTED], ids=[r[0] for r in ADMITTED])
def test_a_service_is_reached(dataplane: DataPlane, protocol: int, port: int, source: str, so: bool) -> None:
    host.write_services(dataplane._map("services"), dataplane._map("local_ports"), SERVICES)
    assert admitted(dataplane, protocol, port, source) is so


def test_all_of_ipv6_is_not_all_of_ipv4(dataplane: DataPlane) -> None:
    host.write_services(
        dataplane._map("services"),
        dataplane._map("local_ports"),
        [Service(protocol="tcp", port=22, sources=("::/0",))],
    )
    assert admitted(dataplane, 6, 22, "2001:db8::1")
    assert not admitted(dataplane, 6, 22, "198.51.100.1")


def test_a_reload_changes_the_services(dataplane: DataPlane, configure: ConfigFactory) -> None:
    host.write_services(dataplane._map("services"), dataplane._map("local_ports"), SERVICES)
    host.write_services(dataplane._map("services"), dataplane._map("local_ports"), SERVICES[1:])
    assert not admitted(dataplane, 6, 22, "192.0.2.77")
    assert admitted(dataplane, 17, 161, "192.0.2.77")


OWN = V4_MAPPED + bytes([203, 0, 113, 11])


def test_own_addresses_are_exactly_those_given(dataplane: DataPlane) -> None:
    dataplane.set_own_addresses([bytes(16), OWN])
    dataplane.set_own_addresses([OWN])
    assert {bytes(key) for key, _ in dataplane._map("own_addresses").items()} == {OWN}


def taken(dataplane: DataPlane, exit_index: int, protocol: int) -> set[int]:
    pool = dataplane._map("pools").lookup(exit_index * 3 + protocol)
    return {word * 64 + bit for word, bits in enumerate(pool.taken) for bit in range(64) if bits >> bit & 1}


def test_local_ports_are_kept_from_subscribers_at_an_own_exit_address(
    dataplane: DataPlane, configure: ConfigFactory
) -> None:
    first, last = map(int, host._LOCAL_PORTS.read_text().split())
    outgoing = set(range(first // 64, last // 64 + 1))
    made = DataPlane(configure(guard={"allow": [{"protocol": "tcp", "port": 22, "sources": ["0.0.0.0/0"]}]}))
    made.set_own_addresses([OWN])
    assert taken(made, 1, 0) == outgoing | {22 // 64}
    assert taken(made, 1, 1) == outgoing | {51820 // 64}
    assert taken(made, 1, 2) == set(), "ICMP has no local ports"
    assert taken(made, 0, 0) == taken(made, 2, 0) == set(), "the other exit addresses are all the subscribers'"


def test_blocks_that_subscribers_hold_stay_theirs(dataplane: DataPlane) -> None:
    pools = dataplane._map("pools")
    pool = pools.lookup(3)
    pool.taken[5] = 1 << 7
    pools.update(3, pool)
    dataplane.set_own_addresses([OWN])
    assert 5 * 64 + 7 in taken(dataplane, 1, 0)


def test_the_protocols_are_in_the_order_of_the_abi() -> None:
    text = (abi.EBPF / "abi.h").read_text()
    assert "enum protocol { PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMP, PROTOCOLS };" in text
    assert host._PROTOCOLS == ("tcp", "udp", "icmp")


USED = {"active": 0x5_0000000000, "up": 0x5_0000000000 + 700, "down": 0x5_0000000000 + 900}
"""What the data path may have written for a peer in epoch 5."""
NOTHING_LEFT = (0x7_0000000000, 0x9_8000000000, 0x9_8000000000)
"""Used up in epoch 7 of the active peers and 9 of volume."""

USES = (
    ("of a peer that changes its rate stays", [SetEntry(5, entry(A, rate=Rate(9, 9)))], tuple(USED.values())),
    ("of a peer that objects stays", [SetEntry(5, replace(entry(A), statistics=False))], tuple(USED.values())),
    ("of a removed peer is forgotten", [RemoveEntry(5)], NOTHING_LEFT),
    ("of who takes its place begins used up", [RemoveEntry(5), SetEntry(5, entry(A))], NOTHING_LEFT),
    ("of other addresses begins used up", [SetEntry(5, entry(A, B))], NOTHING_LEFT),
)


@pytest.mark.parametrize(("steps", "then"), [row[1:] for row in USES], ids=[row[0] for row in USES])
def test_what_was_used_of_the_clips(
    dataplane: DataPlane, configure: ConfigFactory, steps: list[EntryStep], then: tuple[int, ...]
) -> None:
    """A key that leaves and comes back has no new clip, and nothing about it is remembered."""
    made = DataPlane(configure(metrics={"design_peers": 1000}))
    made.ensure()
    try:
        made.apply([SetEntry(5, entry(A))])
        made.statistics.turn("active", 7)
        made.statistics.turn("volume", 9)
        used = made._map("peer_statistics")
        used.update(5, used.value(**USED))
        made.apply(steps)
        words = used.lookup(5)
        assert (words.active, words.up, words.down) == then
    finally:
        made.close()
        dataplane.ensure()
