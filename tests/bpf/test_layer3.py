"""Packets from a tunnel that has no Ethernet header, as WireGuard's have none, and get one on their way out.

BPF_PROG_TEST_RUN takes the first 14 bytes for an Ethernet header to learn the protocol, then gives the program the
packet from its first byte. So the subscribers here have addresses whose bytes, where the type would stand, say what
the packet is: 8.0.3.4 is 0x0800 there, and so is 0x86dd in the third word of the IPv6 address.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

from jetplane import abi
from jetplane.dataplane.links import Links
from jetplane.dataplane.programs import Hook
from jetplane.lab.waiting import wait_until
from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Case, Node, Tc, inside
from tests.bpf.nat_world import (
    EXIT,
    FAMILIES,
    PEER,
    PROTOCOLS,
    TUNNEL_IFINDEX,
    add_peer,
    change_peer,
    changed,
    ends,
    out_packet,
)
from tests.bpf.packets import wire

INNER = {4: "8.0.3.4", 6: "fd00:0:86dd::34"}
ETHER_TYPE = {4: b"\x08\x00", 6: b"\x86\xdd"}
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
"""linux/if_tun.h"""


CASES = tuple(
    Case(
        f"the kernel grows no ipv{version} packet beyond 16 KiB",
        wire(out_packet(version, "udp", source=INNER[version], payload=bytes(16 << 10)), ethernet=False),
        Tc.SHOT,
        "HELPER",
    )
    for version in FAMILIES
)
"""Too long for BPF_PROG_TEST_RUN. Super-packets may be longer, and are no rows here: the kernel knows them as such."""


@pytest.fixture(scope="module")
def bare(make_node: NodeFactory) -> Node:
    """A node whose tunnels carry IP packets, and its two subscribers."""
    node = make_node(source="nat.bpf.c", transport="wireguard")
    node.reset()
    add_peer(node, PEER, INNER.values())
    return node


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", FAMILIES)
def test_a_packet_gets_an_ethernet_header_and_is_translated_behind_it(bare: Node, version: int, protocol: str) -> None:
    packet = out_packet(version, protocol, source=INNER[version])
    result = bare.run("nat_out", wire(packet, ethernet=False))
    assert Tc(result.verdict) is Tc.REDIRECT, f"counted: {dict(result.counted)}"
    assert result.output[12:14] == ETHER_TYPE[version]
    (address, port), _ = ends(result.output)
    assert address == EXIT[version]
    expected = wire(changed(packet, source=(address, port)), ethernet=False)
    assert result.output[14:] == expected
    assert result.counted["OUT_BYTES"] == len(packet)


@pytest.fixture(scope="module")
def tunnel(bare: Node) -> Iterator[int]:
    """A tunnel device with the program at its ingress; what is written to the descriptor comes in by it."""
    with inside(bare.namespace):
        tunnel = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(tunnel, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
        subprocess.run(["ip", "link", "set", "tun0", "mtu", "65535", "up"], check=True, timeout=10)
        ifindex = socket.if_nametoindex("tun0")
        with Links() as links:
            links.add_clsact(ifindex)
            links.replace_filter(ifindex, Hook.INGRESS, bare.descriptor("nat_out"), "nat_out")
    change_peer(bare, PEER, tunnel_ifindex=ifindex)
    yield tunnel
    change_peer(bare, PEER, tunnel_ifindex=TUNNEL_IFINDEX)
    os.close(tunnel)  # and the device is gone


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_the_kernel_refuses_ends_here(bare: Node, tunnel: int, case: Case) -> None:
    before = bare.counters()
    os.write(tunnel, case.packet)
    wait_until("the packet to be counted", lambda: bare.counters()["HELPER"] > before["HELPER"])
    after = bare.counters()
    assert {name for name in abi.drop_reasons() if after[name] != before[name]} == {"HELPER"}
    assert after["OUT_PACKETS"] == before["OUT_PACKETS"]
