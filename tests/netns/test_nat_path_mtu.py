"""The path's MTU through a running node, as real TCP and UDP applications discover it, and what a NAT must leave alone.

subscriber ─1420─ node ─1500─ internet (a router) ─1500─ far          a test narrows one of the links
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Packet

from jetplane.lab.addresses import TO_NODE, TUNNEL_MTU, UPLINK
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import wait_until
from tests.netns import nat_place as place
from tests.netns import nat_wire as wire
from tests.netns.nat_place import FAMILIES, FAR

pytestmark = pytest.mark.timeout(300)

IP_HEADER = {4: 20, 6: 40}
TCP_INFO_PMTU = 60  # offset of tcpi_pmtu in struct tcp_info (linux/tcp.h)


@pytest.fixture(scope="module")
def lab(nat_lab: Lab) -> Lab:
    """The one that all share."""
    return nat_lab


@pytest.fixture(autouse=True)
def _fresh_paths(lab: Lab) -> None:
    """No host remembers what an earlier test taught it."""
    place.forget_paths(lab, place.subscriber(lab, 0), place.far(lab))


@dataclass(frozen=True)
class Hop:
    """A narrow link."""

    name: str
    mtu: int
    sender: str  # "subscriber" or "site": who must find out
    make: Callable[[Lab], AbstractContextManager[None]]


@contextmanager
def _as_it_is(lab: Lab) -> Iterator[None]:
    yield


HOPS = (
    Hop("behind the node", 1330, "subscriber", lambda lab: place.narrowed(lab.plan.internet, place.TO_FAR, 1330)),
    Hop("the uplink", 1310, "subscriber", lambda lab: place.narrowed(lab.plan.node, UPLINK, 1310)),
    Hop("before the node", 1350, "site", lambda lab: place.narrowed(lab.plan.internet, TO_NODE, 1350)),
    Hop("the tunnel", TUNNEL_MTU, "site", _as_it_is),
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hop", HOPS, ids=lambda hop: hop.name)
def test_a_udp_application_discovers_the_path(lab: Lab, hop: Hop, family: int) -> None:
    with hop.make(lab), place.talking(place.subscriber(lab, 0), place.far(lab), FAR[family]) as (client, server):
        sender, receiver = (client, server) if hop.sender == "subscriber" else (server, client)
        place.forbid_fragments(sender, family)
        headers = IP_HEADER[family] + 8
        too_big = bytes(place.path_mtu(sender, family) - headers)
        sender.send(too_big)
        wait_until("the error", lambda: sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EMSGSIZE)
        assert place.path_mtu(sender, family) == hop.mtu
        with pytest.raises(OSError, match="too long"):
            sender.send(too_big)
        fitting = bytes(hop.mtu - headers)
        sender.send(fitting)
        assert receiver.recv(65536) == fitting


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hop", HOPS[:3], ids=lambda hop: hop.name)
def test_a_tcp_transfer_discovers_the_path(lab: Lab, hop: Hop, family: int) -> None:
    """Through the narrow tunnel the clamp leads before TCP has to find out: see below."""
    with hop.make(lab), place.connection(lab, family) as (client, server):
        sender, receiver = (client, server) if hop.sender == "subscriber" else (server, client)
        place.send_some(sender, receiver, 500_000)
        assert _tcp_mtu(sender) == hop.mtu


def test_a_tcp_transfer_follows_a_tunnel_that_becomes_narrower(lab: Lab) -> None:
    """What was agreed on when the connections began no longer fits; the node tells the sites."""
    with place.connection(lab, 4) as ipv4, place.connection(lab, 6) as ipv6:
        for client, server in (ipv4, ipv6):
            place.send_some(server, client, 100_000)
        place.change_configuration([lab], lambda text: text.replace(f"mtu = {TUNNEL_MTU}", "mtu = 1340"))
        try:
            for client, server in (ipv4, ipv6):
                place.send_some(server, client, 500_000)
                assert _tcp_mtu(server) == 1340
        finally:
            place.change_configuration([lab], lambda text: text.replace("mtu = 1340", f"mtu = {TUNNEL_MTU}"))


def _tcp_mtu(made: socket.socket) -> int:
    """What TCP knows of its path."""
    (mtu,) = struct.unpack_from("I", made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), TCP_INFO_PMTU)
    return int(mtu)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ends_announce_segments_that_fit_the_tunnel(lab: Lab, family: int) -> None:
    here, interface = place.subscriber(lab, 0), lab.plan.subscribers[0].interface
    with (
        place.narrowed(here, interface, 1500),  # so that the client itself would announce more
        wire.watch(here, interface) as near,
        wire.watch(lab.plan.internet, TO_NODE) as behind,
        place.connection(lab, family),
    ):
        announced = {
            (where, flags): _mss(seen.first(f"the {flags}", lambda packet, flags=flags: _is(packet, flags)))  # type: ignore[misc]
            for where, seen in (("near", near), ("behind", behind))
            for flags in ("S", "SA")
        }
    natural, clamped = (mtu - IP_HEADER[family] - 20 for mtu in (1500, TUNNEL_MTU))
    assert announced == {
        ("near", "S"): natural,
        ("behind", "S"): clamped,
        ("behind", "SA"): natural,
        ("near", "SA"): clamped,
    }


def _is(packet: Packet, flags: str) -> bool:
    return TCP in packet and packet[TCP].flags == flags


def _mss(packet: Packet) -> int:
    return int(dict(packet[TCP].options)["MSS"])
