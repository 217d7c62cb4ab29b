"""What a subscriber's own programs hear when no port is left for them: at once, in the words of its kernel.

The topology is that of test_network; the subscriber may have one block of 64 ports of each protocol and family.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator

import pytest

from jetplane import network
from jetplane.dataplane.node import DataPlane
from jetplane.lab import namespaces
from jetplane.lab.waiting import patience, wait_until
from jetplane.model import InnerAddress
from jetplane.plan import Entry, SetEntry
from tests.netns.test_network import BOTH, INNER, SITES, World, build

PORTS = 64
ERRORS = (errno.EHOSTUNREACH, errno.EACCES)
"""What Linux makes of "administratively prohibited": icmp_err_convert in net/ipv4/icmp.c, tab_unreach in net/ipv6."""


@pytest.fixture(scope="module")
def world(root: None, unique: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with build(unique, tmp_path_factory.mktemp("exhaustion")) as built:
        built.config = built.configure(nat={"max_bindings": 4096, "max_remotes": 4096, "block_quota": 1})
        built.ensure()
        plane = DataPlane(built.config)
        try:
            built.inside(plane.ensure)
            built.inside(lambda: plane.set_own_addresses(network.uplink_addresses(built.config)))
            addresses = tuple(sorted(map(InnerAddress.parse, INNER)))
            tunnel = built.inside(lambda: network.interface_index("jet0"))
            built.inside(lambda: plane.apply([SetEntry(0, Entry(addresses, tunnel, (0, 1)))]))
            yield built
        finally:
            built.inside(plane.detach)


def client(world: World, family: int, kind: socket.SocketKind, port: int) -> socket.socket:
    """A subscriber's socket at this port; the kernel would use one port for many connections."""
    made = namespaces.inside(
        world.subscriber, lambda: socket.socket(socket.AF_INET6 if family else socket.AF_INET, kind)
    )
    made.bind((INNER[family], port))
    return made


def spend(world: World, family: int, kind: socket.SocketKind, used: contextlib.ExitStack) -> socket.socket:
    """Use every port of the quota; return one more socket."""
    for number in range(PORTS):
        one = used.enter_context(client(world, family, kind, 30000 + number))
        one.setblocking(False)
        one.connect_ex((SITES[family], 20000))
        if kind is socket.SOCK_DGRAM:
            one.send(b"x")
    return used.enter_context(client(world, family, kind, 30000 + PORTS))


def refused(one: socket.socket, site: str) -> int:
    """Connect and talk until the kernel says an error, and return that; answers come at a rate, so ask again."""
    heard: list[int] = []

    def ask() -> bool:
        try:
            one.settimeout(0.3 if one.type is socket.SOCK_DGRAM else patience(5))  # TCP asks again by itself
            one.connect((site, 9))
            one.send(b"x")
            one.recv(1)
        except TimeoutError:
            return False
        except OSError as error:
            heard.append(error.errno or 0)
        return bool(heard)

    wait_until("the kernel to say that it is prohibited", ask)
    return heard[0]


@BOTH
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_who_has_spent_its_ports_hears_it_at_once(world: World, family: int, kind: socket.SocketKind) -> None:
    with contextlib.ExitStack() as open_sockets:
        last = spend(world, family, kind, open_sockets)
        assert refused(last, SITES[family]) == ERRORS[family]


@BOTH
def test_the_answer_names_the_reason_and_comes_from_the_tunnel(world: World, family: int) -> None:
    """Type 3 code 13 (RFC 1812), type 1 code 1 (RFC 4443)."""
    with contextlib.ExitStack() as used:
        last = spend(world, family, socket.SOCK_DGRAM, used)
        raw = used.enter_context(
            namespaces.inside(
                world.subscriber,
                lambda: socket.socket(
                    socket.AF_INET6 if family else socket.AF_INET,
                    socket.SOCK_RAW,
                    socket.IPPROTO_ICMPV6 if family else socket.IPPROTO_ICMP,
                ),
            )
        )
        raw.settimeout(patience(5))
        wanted = (1, 1) if family else (3, 13)
        while True:
            last.sendto(b"x", (SITES[family], 9))
            message, sender = raw.recvfrom(2048)
            start = 0 if family else (message[0] & 15) * 4
            if (message[start], message[start + 1]) == wanted:
                break
        assert sender[0] == ("fd64::1" if family else "10.64.0.1")
