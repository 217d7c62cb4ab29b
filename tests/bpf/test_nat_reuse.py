"""TCP connections that share external ports, each to another remote, when a subscriber has no port left.

`nat.tcp_reuse`; the one place where ports are overloaded (RFC 4787, REQ-3), and only for who would get nothing else.
"""

from __future__ import annotations

import socket
import time
from collections import Counter

import pytest

from jetplane import abi
from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Node, Tc, Xdp
from tests.bpf.nat_world import (
    CLOSING,
    ESTABLISHED,
    EXIT,
    EXIT_INDEX,
    FAMILIES,
    INNER,
    INNER_2,
    OPENING,
    OTHER,
    PEER,
    RESET,
    ROUTER,
    SITE,
    answer,
    change_peer,
    changed,
    consistent,
    ends,
    is_dropped,
    is_prohibited,
    out_packet,
    prepare,
    reused,
    rewrite_life,
    send_in,
    send_out,
    sweep,
)
from tests.bpf.packets import (
    ICMP,
    ICMPv6DestUnreach,
    ICMPv6TimeExceeded,
    dissect,
    ip,
    wire,
)
from tests.bpf.reported import reported

every_family = pytest.mark.parametrize("version", FAMILIES)

PORTS = 64
"""One block: what a subscriber may have of its own here."""
FIRST = abi.constants()["REUSE_FIRST_PORT"]
REUSED = range(FIRST, FIRST + abi.constants()["REUSE_PORTS"])
QUOTA = 200


def make(make_node: NodeFactory, **nat: object) -> Node:
    settings = {"tcp_reuse": True, "tcp_reuse_flows": 1024, "tcp_reuse_quota": QUOTA, "block_quota": 1}
    node = make_node(nat={"max_bindings": 4096, "max_remotes": 4096, **settings, **nat})
    node.reset()
    return prepare(node)


@pytest.fixture
def world(make_node: NodeFactory) -> Node:
    """Whose subscribers may have one block each."""
    return make(make_node)


def spend(world: Node, version: int, inner: dict[int, str] = INNER) -> None:
    """Take every port of its own that a subscriber may have for TCP."""
    for number in range(PORTS):
        assert send_out(world, out_packet(version, "tcp", source=inner[version], sport=2000 + number)) not in REUSED


def site(version: int, number: int) -> str:
    """One of many sites."""
    return f"198.51.{number // 256}.{number % 256}" if version == 4 else f"2001:db8:f:{number:x}::1"


def slot_at(world: Node, version: int, port: int) -> int:
    """The slot of the only connection at a reused port."""
    (slot,) = [
        s for key, s in world.maps["reuse_outer"].items() if (key.exit_index, key.port) == (EXIT_INDEX[version], port)
    ]
    return int(slot)


def state_of(world: Node, slot: int) -> int:
    return int(world.maps["bindings"].lookup(slot).life >> 32 & 0xFF)


@every_family
def test_who_has_no_port_left_shares_one_and_answers_return(world: Node, version: int) -> None:
    spend(world, version)

    port = send_out(world, out_packet(version, "tcp", sport=3000))

    assert port in REUSED
    send_in(world, answer(version, "tcp", port), (INNER[version], 3000))
    assert send_out(world, out_packet(version, "tcp", sport=3000, flags="A")) == port, "it stays there"
    assert (reused(world), consistent(world)) == (1, PORTS)


@every_family
def test_whoever_was_not_addressed_finds_nothing_at_a_reused_port(world: Node, version: int) -> None:
    """Neither in the guard nor behind it; whatever the filter is set to."""
    spend(world, version)
    port = send_out(world, out_packet(version, "tcp", sport=3000))
    before = sorted(bytes(k) for k, _ in world.maps["reuse_outer"].items())

    for stranger in (
        answer(version, "tcp", port, source=OTHER[version]),
        answer(version, "tcp", port, sport=444),
        answer(version, "tcp", port, flags="S", source=OTHER[version]),
        answer(version, "tcp", (port - FIRST + 1) % 4096 + FIRST),
    ):
        is_dropped(world, "nat_in", stranger, "NO_BINDING")
        guarded = world.run("guard", wire(stranger))
        assert (Xdp(guarded.verdict), guarded.dropped) == (Xdp.DROP, "NO_BINDING")
    assert Xdp(world.run("guard", wire(answer(version, "tcp", port))).verdict) is Xdp.PASS
    assert sorted(bytes(k) for k, _ in world.maps["reuse_outer"].items()) == before


@every_family
def test_ports_put_aside_are_nobody_s_own(make_node: NodeFactory, version: int) -> None:
    """Of TCP; other protocols use them as before."""
    world = make(make_node, block_quota=32)
    pool = world.maps["pools"].value()
    pool.taken[:] = [(1 << 64) - 1] * 16
    pool.taken[1] = 0
    for index in range(12):
        world.maps["pools"].update(index, pool)

    assert send_out(world, out_packet(version, "tcp")) in REUSED
    assert send_out(world, out_packet(version, "udp")) in REUSED
    assert reused(world) == 1
    send_out(world, out_packet(version, "tcp", source=INNER_2[version]))
    assert reused(world) == 2, "an empty pool is shared, too"


@every_family
def test_one_endpoint_has_a_connection_for_every_remote(world: Node, version: int) -> None:
    spend(world, version)
    ports = {}
    for number in range(100):
        packet = out_packet(version, "tcp", sport=3000, destination=site(version, number), dport=443 + number % 3)
        ports[number] = send_out(world, packet)

    assert reused(world) == 100
    assert len(set(ports.values())) > 80, "ports are drawn by chance"
    for number, port in ports.items():
        back = answer(version, "tcp", port, source=site(version, number), sport=443 + number % 3)
        send_in(world, back, (INNER[version], 3000))


@every_family
def test_ports_of_the_node_s_own_services_are_left_out(world: Node, version: int) -> None:
    """At an exit address that is the node's as well, the controller takes their blocks out of the pool."""
    pool = world.maps["pools"].lookup(EXIT_INDEX[version] * 3)
    pool.taken[1] = 0xFFFF
    world.maps["pools"].update(EXIT_INDEX[version] * 3, pool)
    spend(world, version)
    ports = [
        send_out(world, out_packet(version, "tcp", sport=3000 + n % 2, destination=site(version, n)))
        for n in range(QUOTA)
    ]
    assert set(ports) <= set(REUSED) and min(ports) >= FIRST + 16 * 64
    assert reused(world) == QUOTA


@every_family
def test_a_subscriber_has_a_quota_of_these_too(world: Node, version: int) -> None:
    spend(world, version)
    spend(world, version, INNER_2)
    for number in range(QUOTA):
        send_out(world, out_packet(version, "tcp", sport=3000, destination=site(version, number)))

    is_prohibited(world, out_packet(version, "tcp", sport=3000, destination=OTHER[version]))
    send_out(world, out_packet(version, "tcp", sport=3000, source=INNER_2[version]))
    send_out(world, out_packet(version, "tcp", sport=3000, destination=site(version, 0)))
    assert reused(world) == QUOTA + 1


@every_family
def test_a_connection_stays_where_it_is_when_ports_are_free_again(world: Node, version: int) -> None:
    """A binding that its endpoint gets later is for later connections; the packets of this one do not move to it."""
    spend(world, version)
    port = send_out(world, out_packet(version, "tcp", sport=3000))
    change_peer(world, PEER, generation=1)
    for key, slot in list(world.maps["endpoints"].items()):
        if key.protocol == 0:
            rewrite_life(world, int(slot), age=10_000)
    sweep(world)

    later = send_out(world, out_packet(version, "tcp", sport=3000, destination=OTHER[version]))

    assert later not in REUSED
    assert send_out(world, out_packet(version, "tcp", sport=3000, flags="A")) == port
    send_in(world, answer(version, "tcp", port), (INNER[version], 3000))
    send_in(world, answer(version, "tcp", later, source=OTHER[version]), (INNER[version], 3000))


@every_family
@pytest.mark.parametrize(
    ("segments", "state", "seconds"),
    [
        (">S", OPENING, 240),
        (">S <SA", ESTABLISHED, 7440),
        (">S <SA >A <FA >FA", CLOSING, 240),
        (">S <SA >A <R", RESET, 240),
        (">S <SA >A <R >A", ESTABLISHED, 7440),
        (">S <SA >A <FA >FA >S", OPENING, 240),
    ],
)
def test_a_connection_follows_its_states_and_is_swept_after_its_time(
    world: Node, version: int, segments: str, state: int, seconds: int
) -> None:
    spend(world, version)
    port = 0
    for segment in segments.split():
        if segment[0] == ">":
            port = send_out(world, out_packet(version, "tcp", sport=3000, flags=segment[1:]))
        else:
            send_in(world, answer(version, "tcp", port, flags=segment[1:]), (INNER[version], 3000))
    slot = slot_at(world, version, port)
    assert state_of(world, slot) == state

    rewrite_life(world, slot, age=seconds)
    assert sweep(world) == (0, 0, PORTS + 1)
    rewrite_life(world, slot, age=4)
    is_dropped(world, "nat_in", answer(version, "tcp", port, flags="A"), "NO_BINDING")
    assert sweep(world) == (1, 0, PORTS)
    assert reused(world) == 0
    assert bytes(world.maps["bindings"].lookup(slot))[:32] == bytes(32), "nothing of it is left"


@every_family
def test_it_dies_with_its_subscriber(world: Node, version: int) -> None:
    spend(world, version)
    port = send_out(world, out_packet(version, "tcp", sport=3000))
    change_peer(world, PEER, tunnel_ifindex=0, generation=2)

    is_dropped(world, "nat_in", answer(version, "tcp", port), "STALE_PEER")
    is_dropped(world, "nat_out", out_packet(version, "tcp", sport=3000), "UNKNOWN_SOURCE")
    assert sweep(world)[0] == PORTS + 1
    assert (reused(world), consistent(world)) == (0, 0)


@every_family
def test_icmp_errors_about_it_are_translated_both_ways(world: Node, version: int) -> None:
    """From a router on the way, and from the subscriber itself."""
    spend(world, version)
    out = out_packet(version, "tcp", sport=3000)
    port = send_out(world, out)
    error = ICMP(type=11) if version == 4 else ICMPv6TimeExceeded()
    seen = changed(out, hops=0, source=(EXIT[version], port))
    result = world.run("nat_in", wire(ip(ROUTER[version], EXIT[version]) / error / seen))
    assert Tc(result.verdict) is Tc.REDIRECT, dict(result.counted)
    assert dissect(result.output).payload.dst == INNER[version]
    assert wire(out, ethernet=False)[12:] in result.output

    back = answer(version, "tcp", port)
    inside = changed(back, hops=0, destination=(INNER[version], 3000))
    refusal = ICMP(type=3, code=3) if version == 4 else ICMPv6DestUnreach(code=4)
    result = world.run("nat_out", wire(ip(INNER[version], SITE[version]) / refusal / inside))
    assert Tc(result.verdict) is Tc.REDIRECT, dict(result.counted)
    assert dissect(result.output).payload.src == EXIT[version]
    assert wire(back, ethernet=False)[12:] in result.output


@every_family
def test_the_node_s_own_errors_about_it_speak_of_the_exit_address(world: Node, version: int) -> None:
    spend(world, version)
    port = send_out(world, out_packet(version, "tcp", sport=3000))
    back = answer(version, "tcp", port)
    inside = changed(back, hops=0, destination=(INNER[version], 3000))
    error = ICMP(type=11) if version == 4 else ICMPv6TimeExceeded()
    node = {4: "192.0.2.1", 6: "2001:db8:0:1::1"}[version]

    result = world.run("leak_guard", wire(ip(node, SITE[version]) / error / inside))

    assert Tc(result.verdict) is Tc.OK, dict(result.counted)
    assert wire(back, ethernet=False)[12:] in result.output


@every_family
def test_it_turns_round_to_another_subscriber_and_back(world: Node, version: int) -> None:
    """RFC 5382, REQ-8."""
    theirs = send_out(
        world, out_packet(version, "tcp", source=INNER_2[version], destination=EXIT[version], dport=9), hops=0
    )
    spend(world, version)
    packet = out_packet(version, "tcp", sport=3000, destination=EXIT[version], dport=theirs)
    mine = send_out(world, packet, hops=0)
    assert mine in REUSED

    send_in(world, changed(packet, hops=0, source=(EXIT[version], mine)), (INNER_2[version], 40000))
    reply = out_packet(
        version, "tcp", source=INNER_2[version], sport=40000, destination=EXIT[version], dport=mine, flags="SA"
    )
    assert send_out(world, reply, hops=0) == theirs
    send_in(world, changed(reply, hops=0, source=(EXIT[version], theirs)), (INNER[version], 3000))


@every_family
def test_a_binding_at_a_port_put_aside_since_gives_way(world: Node, version: int) -> None:
    """As after a reload that sets tcp_reuse: the old binding's answers could be taken for another's."""
    port = send_out(world, out_packet(version, "tcp"))
    endpoint, slot = next(iter(world.maps["endpoints"].items()))
    binding = world.maps["bindings"].lookup(slot)
    void = slot - port + FIRST + 5
    world.maps["bindings"].update(void, binding)
    world.maps["bindings"].update(slot, type(binding)())
    world.maps["endpoints"].update(endpoint, void)
    old = world.maps["blocks"].lookup(slot // 64)
    moved = type(old)(owner=old.owner, used=1 << void % 64)
    world.maps["blocks"].update(void // 64, moved)
    world.maps["blocks"].update(slot // 64, type(old)(owner=old.owner, used=0))

    fresh = send_out(world, out_packet(version, "tcp"))

    assert fresh not in REUSED
    assert world.maps["blocks"].lookup(void // 64).used == 0


@every_family
def test_off_means_off(make_node: NodeFactory, version: int) -> None:
    world = make(make_node, tcp_reuse=False)
    spend_all = [send_out(world, out_packet(version, "tcp", sport=2000 + n)) for n in range(PORTS)]
    assert len(spend_all) == PORTS
    is_prohibited(world, out_packet(version, "tcp", sport=3000))
    assert world.maps["reuse_outer"].info.max_entries == 64 * 4


FLOWS = 70_000


def test_one_exit_address_carries_more_than_64k_connections(make_node: NodeFactory) -> None:
    """Every one with an end of its own; a sample goes both ways."""
    world = make(make_node, tcp_reuse_flows=FLOWS + 20_000, tcp_reuse_quota=FLOWS, block_quota=1, max_bindings=4096)
    spend(world, 4)
    template = bytearray(wire(out_packet(4, "tcp", sport=3000, payload=b"")))
    destination, source_port = slice(30, 34), slice(34, 36)
    samples = {}
    began = time.monotonic()
    for number in range(FLOWS):
        template[destination] = socket.inet_aton(f"198.51.{number // 250 % 250}.{number % 250 + 1}")
        template[source_port] = (3000 + number // 62_500).to_bytes(2)
        if number % 700:
            world.spin("nat_out", bytes(template), repeat=1)
        else:
            result = world.run("nat_out", bytes(template))
            assert Tc(result.verdict) is Tc.REDIRECT, dict(result.counted)
            (_, port), (remote, _) = ends(result.output)
            samples[remote, 3000 + number // 62_500] = port
    print(f"{FLOWS} connections in {time.monotonic() - began:.1f} s")

    counted = Counter(key.port for key, _ in world.maps["reuse_outer"].items())
    assert sum(counted.values()) == FLOWS > 65_536
    assert set(counted) <= set(REUSED)
    for (remote, sport), port in samples.items():
        send_in(world, answer(4, "tcp", port, source=remote), (INNER[4], sport))
    assert reused(world) == FLOWS
    change_peer(world, PEER, generation=2)
    assert sweep(world)[0] == FLOWS + PORTS
    assert reused(world) == 0


@every_family
def test_a_report_tells_of_these_connections_and_of_no_one_elses(world: Node, version: int) -> None:
    for inner in (INNER, INNER_2):
        spend(world, version, inner)
    port = send_out(world, out_packet(version, "tcp", sport=3000))
    send_out(world, out_packet(version, "tcp", source=INNER_2[version], sport=3000, destination=OTHER[version]))
    (remote,) = {key.remote for key, _ in world.maps["reuse_outer"].items() if key.port == port}

    told = reported(world, INNER.values())

    (connection,) = told["connections_at_reused_ports"]
    assert connection.pop("idle_s") >= 0
    assert connection == {
        "protocol": "tcp",
        "inner": f"{INNER[version]} port 3000",
        "exit_address": EXIT[version],
        "exit_port": port,
        "state": "opening",
        "remotes": [f"{remote:016x}"],
    }
    assert {b["exit_port"] for b in told["bindings"]} & set(REUSED) == set() and len(told["bindings"]) == PORTS
    assert [entry["connections_at_reused_ports"] for entry in told["entries"]] == [1]
    assert SITE[version] not in str(told)

    send_in(world, answer(version, "tcp", port), (INNER[version], 3000))
    send_out(world, out_packet(version, "tcp", sport=3000, flags="A"))
    assert [c["state"] for c in reported(world, INNER.values())["connections_at_reused_ports"]] == ["established"]
    rewrite_life(world, slot_at(world, version, port), age=8000)
    sweep(world)
    assert reported(world, INNER.values())["connections_at_reused_ports"] == []
