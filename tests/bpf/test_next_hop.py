"""The Ethernet header that nat_out writes by itself, and everything that must make it leave that to the kernel.

Who wrote it is to be seen: BPF_PROG_TEST_RUN shows the packet as the program leaves it, and the kernel's own header
would come later.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetplane.lab.waiting import wait_until
from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Node, Tc, inside
from tests.bpf.nat_world import (
    EXIT,
    EXIT_INDEX,
    FAMILIES,
    INNER,
    INNER_2,
    NODE,
    OTHER,
    PEER,
    PEER_2,
    SITE,
    TICK_NS,
    add_peer,
    ends,
    out_packet,
    prepare,
)
from tests.bpf.packets import Packet, wire
from tests.bpf.test_layer3 import INNER as INNER_L3

UPLINK = 77
OWN = "02:00:00:00:00:01"
GATEWAY = {4: "192.0.2.254", 6: "2001:db8:0:1::fe"}
SECOND = {4: "192.0.2.253", 6: "2001:db8:0:1::fd"}
NEIGHBOUR = {4: "192.0.2.9", 6: "2001:db8:0:1::9"}
"""A site on the uplink's own link."""
GATEWAY_MAC, SECOND_MAC, NEIGHBOUR_MAC, NEW_MAC = (f"02:00:00:00:01:{last:02x}" for last in range(4))
PREFIX = {4: 24, 6: 64}
BITS = {4: 32, 6: 128}
ANY = {4: "0.0.0.0/0", 6: "::/0"}
TRIES = 20
"""More packets than it takes the program to learn its way."""
transports = pytest.mark.parametrize("transport", ["veth", "wireguard"])
families = pytest.mark.parametrize("version", FAMILIES)


def ip(node: Node, *commands: str) -> None:
    """Run ip(8) in the node's namespace, each command preceded by -4 or -6."""
    with inside(node.namespace):
        for command in commands:
            done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, timeout=10)
            assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.fixture(scope="module")
def nodes(make_node: NodeFactory) -> dict[str, Node]:
    """By transport: a node with a link to its gateways."""
    made = {kind: make_node(source="nat.bpf.c", transport=kind, uplink=UPLINK) for kind in ("veth", "wireguard")}
    for node in made.values():
        ip(
            node,
            "link set lo up",
            f"link add up0 index {UPLINK} address {OWN} type veth peer name far0",
            "link set far0 up",
            "link set up0 up",
            *(f"-{version} addr add {NODE[version]}/{PREFIX[version]} dev up0 {f}" for version, f in FLAGS.items()),
        )
        with inside(node.namespace):
            for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                Path("/proc/sys/net", path).write_text("1", encoding="ascii")
    return made


FLAGS = {4: "", 6: "nodad"}


@pytest.fixture(autouse=True)
def one_cpu() -> Iterator[None]:
    """Each CPU remembers for itself: what one has heard, another may not know before the tick ends."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def routed(nodes: dict[str, Node], request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node that knows its gateway, by whichever transport the test is about; veth if it does not care."""
    kind = request.node.callspec.params.get("transport", "veth")
    node = nodes[kind]
    node.reset()
    prepare(node)
    if kind == "wireguard":
        add_peer(node, PEER, INNER_L3.values())
    for version in FAMILIES:
        ip(
            node,
            *(f"-{version} neigh replace {address} lladdr {mac} nud reachable dev up0" for address, mac in (
                (GATEWAY[version], GATEWAY_MAC),
                (SECOND[version], SECOND_MAC),
                (NEIGHBOUR[version], NEIGHBOUR_MAC),
            )),
            f"-{version} route replace {ANY[version]} via {GATEWAY[version]} dev up0",
        )  # fmt: skip
    yield node
    for version in FAMILIES:
        ip(node, f"-{version} route flush root {ANY[version]} proto boot", f"-{version} neigh flush dev up0 nud all")


def sent(node: Node, packet: Packet, *, ethernet: bool = True) -> str:
    """The neighbour that nat_out sends the packet to; "" where it leaves that to the kernel."""
    result = node.run("nat_out", wire(packet, ethernet=ethernet))
    assert Tc(result.verdict) is Tc.REDIRECT, f"counted: {dict(result.counted)}"
    before = wire(packet)[:12] if ethernet else bytes(12)
    if result.output[:12] == before:
        return ""
    assert result.output[6:12].hex(":") == OWN
    (address, _), _ = ends(result.output)
    assert address in EXIT[packet.version] or address.endswith(("11", "b"))
    return result.output[:6].hex(":")


def goes_to(node: Node, packet: Packet, mac: str, *, ethernet: bool = True) -> None:
    """Assert that sooner or later the packet is sent to this neighbour: when what was known before is forgotten."""
    wait_until(f"packets to go to {mac or 'the kernel'}", lambda: sent(node, packet, ethernet=ethernet) == mac)
    began = time.monotonic_ns()
    following = [sent(node, packet, ethernet=ethernet) for _ in range(TRIES)]
    ticks = (time.monotonic_ns() - began) // TICK_NS + 1
    assert set(following) <= {mac, ""}, "it changes its mind"
    assert mac == "" or following.count("") <= ticks, "it asks again and again"


@transports
@families
def test_the_gateways_header_is_written_from_the_second_packet_on(routed: Node, transport: str, version: int) -> None:
    ethernet = transport == "veth"
    source = (INNER if ethernet else INNER_L3)[version]
    for protocol in ("udp", "tcp", "icmp"):
        goes_to(routed, out_packet(version, protocol, source=source), GATEWAY_MAC, ethernet=ethernet)


@families
@pytest.mark.parametrize("filtering", ["endpoint-independent", "address", "address-and-port"])
def test_without_an_uplink_it_is_left_to_the_kernel_whatever_the_filtering(
    make_node: NodeFactory, filtering: str, version: int
) -> None:
    node = make_node(source="nat.bpf.c", nat={"filtering": filtering, "max_bindings": 4096}, uplink=UPLINK)
    node.reset()
    prepare(node)
    packet = out_packet(version, "udp")
    assert {sent(node, packet) for _ in range(TRIES)} == {""}


@families
def test_a_gateway_with_a_new_address_is_followed(routed: Node, version: int) -> None:
    packet = out_packet(version, "udp")
    goes_to(routed, packet, GATEWAY_MAC)
    ip(routed, f"-{version} neigh replace {GATEWAY[version]} lladdr {NEW_MAC} nud reachable dev up0")
    goes_to(routed, packet, NEW_MAC)


@families
def test_another_gateway_is_followed(routed: Node, version: int) -> None:
    packet = out_packet(version, "udp")
    goes_to(routed, packet, GATEWAY_MAC)
    ip(routed, f"-{version} route replace {ANY[version]} via {SECOND[version]} dev up0")
    goes_to(routed, packet, SECOND_MAC)


@families
@pytest.mark.parametrize("gone", ["nud failed", "nud incomplete", ""])
def test_a_gateway_that_is_not_there_is_left_to_the_kernel(routed: Node, version: int, gone: str) -> None:
    packet = out_packet(version, "udp")
    goes_to(routed, packet, GATEWAY_MAC)
    ip(routed, f"-{version} neigh del {GATEWAY[version]} dev up0")
    if gone:
        ip(routed, f"-{version} neigh add {GATEWAY[version]} {gone} dev up0")
    goes_to(routed, packet, "")


@families
@pytest.mark.parametrize("route", ["", "unreachable", "blackhole", "prohibit"])
def test_without_a_route_it_is_left_to_the_kernel(routed: Node, version: int, route: str) -> None:
    packet = out_packet(version, "udp")
    goes_to(routed, packet, GATEWAY_MAC)
    ip(routed, f"-{version} route del {ANY[version]} via {GATEWAY[version]} dev up0")
    if route:
        ip(routed, f"-{version} route add {route} {ANY[version]}")
    goes_to(routed, packet, "")
    if route:
        ip(routed, f"-{version} route del {route} {ANY[version]}")


@families
def test_a_site_on_the_link_has_a_header_of_its_own(routed: Node, version: int) -> None:
    goes_to(routed, out_packet(version, "udp", destination=NEIGHBOUR[version]), NEIGHBOUR_MAC)
    goes_to(routed, out_packet(version, "udp"), GATEWAY_MAC)


@families
def test_every_destination_goes_its_own_way(routed: Node, version: int) -> None:
    ip(routed, f"-{version} route add {OTHER[version]}/{BITS[version]} via {SECOND[version]} dev up0")
    for _ in range(2):
        goes_to(routed, out_packet(version, "udp"), GATEWAY_MAC)
        goes_to(routed, out_packet(version, "udp", destination=OTHER[version]), SECOND_MAC)
    ip(routed, f"-{version} route del {OTHER[version]}/{BITS[version]}")


@families
def test_every_exit_address_goes_its_own_way(routed: Node, version: int) -> None:
    index = tuple(number + 1 for number in EXIT_INDEX.values())
    add_peer(routed, PEER_2, INNER_2.values(), exit_index=index)
    second = "203.0.113.11" if version == 4 else "2001:db8::b"
    ip(
        routed,
        f"-{version} rule add from {second} table 99",
        f"-{version} route add {ANY[version]} via {SECOND[version]} dev up0 table 99",
    )
    for _ in range(2):
        goes_to(routed, out_packet(version, "udp"), GATEWAY_MAC)
        goes_to(routed, out_packet(version, "udp", source=INNER_2[version]), SECOND_MAC)
    ip(routed, f"-{version} rule del from {second} table 99", f"-{version} route flush table 99")


@families
def test_of_several_paths_a_destination_takes_one_at_a_time(routed: Node, version: int) -> None:
    via = " ".join(f"nexthop via {gateway[version]} dev up0" for gateway in (GATEWAY, SECOND))
    ip(routed, f"-{version} route replace {ANY[version]} {via}")
    if version == 6:
        ip(routed, f"-6 route del {ANY[6]} via {GATEWAY[6]} dev up0", f"-6 route replace {ANY[6]} {via}")
    packet = out_packet(version, "udp")
    wait_until("a path to be known", lambda: sent(routed, packet) != "")
    assert {sent(routed, packet) for _ in range(TRIES)} - {""} in ({GATEWAY_MAC}, {SECOND_MAC})
    ip(routed, f"-{version} route del {ANY[version]}")


@families
def test_the_kernel_itself_sends_to_each_neighbour_in_every_tick(routed: Node, version: int) -> None:
    """Or it would believe for ever that a neighbour is there which nobody has asked."""
    sites = [SITE[version], OTHER[version], NEIGHBOUR[version]]
    for destination in itertools.chain(sites, sites):
        goes_to(routed, out_packet(version, "udp", destination=destination),
                NEIGHBOUR_MAC if destination == NEIGHBOUR[version] else GATEWAY_MAC)  # fmt: skip
    for destination in (SITE[version], NEIGHBOUR[version]):
        packet = out_packet(version, "udp", destination=destination)
        wait_until("the kernel's turn", lambda packet=packet: sent(routed, packet) == "")
        wait_until("the program's turn", lambda packet=packet: sent(routed, packet) != "")
