"""The delivered programs under the whole facade, with packets of real sockets.

    subscriber                 node                          site
    far-jet0 ──────── jet0 [nat_out]  up0 [guard, nat_in, leak_guard] ──────── far-up0
    10.64.0.2, fd64::2         exit 198.51.100.10, 2001:db8:e::10       203.0.113.254, 2001:db8::254

`transport = "veth"`: an Ethernet device in the place of the tunnel.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from jetplane.dataplane.links import interface_index
from jetplane.dataplane.node import DataPlane
from jetplane.model import InnerAddress
from jetplane.plan import Entry, RemoveEntry, SetEntry
from tests.bpf.dataplane.conftest import ConfigFactory, configuration_in, ip, namespace_of_a_node
from tests.bpf.harness import inside, new_namespace

EXIT = {socket.AF_INET: "198.51.100.10", socket.AF_INET6: "2001:db8:e::10"}
SITE = {socket.AF_INET: "203.0.113.254", socket.AF_INET6: "2001:db8::254"}
FAMILIES = tuple(EXIT)
PATIENCE_S = 3


class World:
    """Two more namespaces, at the far ends of the node's links."""

    def __init__(self, configure: ConfigFactory, subscriber: int, site: int) -> None:
        self.subscriber, self.site = subscriber, site
        exits = {"ipv4": [EXIT[socket.AF_INET]], "ipv6": [EXIT[socket.AF_INET6]]}
        self._configure = partial(configure, transport="veth", exit=exits, policy={"deny_own_networks": False})
        self.dataplane = self.load()

    def load(self, **changes: object) -> DataPlane:
        """Bring the data plane up, or in line with a changed configuration."""
        self.dataplane = DataPlane(self._configure(**changes))
        self.dataplane.ensure()
        return self.dataplane

    def entry(self) -> Entry:
        addresses = tuple(sorted(InnerAddress.parse(text) for text in ("10.64.0.2", "fd64::2")))
        return Entry(addresses, interface_index("jet0"), (0, 1))

    @contextmanager
    def server(self, family: int, kind: int) -> Iterator[socket.socket]:
        with inside(self.site):
            made = socket.socket(family, kind)
            made.bind((SITE[family], 7))
        with made:
            made.settimeout(PATIENCE_S)
            if kind == socket.SOCK_STREAM:
                made.listen()
            yield made

    @contextmanager
    def client(self, family: int, kind: int) -> Iterator[socket.socket]:
        with inside(self.subscriber):
            made = socket.socket(family, kind)
        with made:
            made.settimeout(PATIENCE_S)
            yield made


@pytest.fixture(scope="module")
def node(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Made once: the delivered programs take the compiler a while."""
    subscriber, site = new_namespace(), new_namespace()
    configure = configuration_in(tmp_path_factory.mktemp("traffic") / "run")
    with namespace_of_a_node():
        for name, namespace in (("far-jet0", subscriber), ("far-up0", site)):
            ip(f"link set {name} netns /proc/{os.getpid()}/fd/{namespace}")
        number("up0", "203.0.113.1/24", "2001:db8::1/64")
        number("jet0", "10.64.0.1/16", "fd64::1/64")
        with inside(subscriber):
            number("far-jet0", "10.64.0.2/16", "fd64::2/64", "10.64.0.1", "fd64::1")
        with inside(site):
            number("far-up0", "203.0.113.254/24", "2001:db8::254/64", "203.0.113.1", "2001:db8::1")
        made = World(configure, subscriber, site)
        yield made
        made.dataplane.detach()
    os.close(subscriber)
    os.close(site)


def number(name: str, ipv4: str, ipv6: str, *gateways: str) -> None:
    """Give an interface its addresses, and the namespace its way out."""
    ip(f"addr add {ipv4} dev {name}")
    for address in (ipv6, f"fe80::{ipv6.rpartition('::')[2]}"):  # from the latter it asks for its neighbours
        ip(f"addr add {address} dev {name} nodad")
    ip(f"link set {name} up")
    for gateway in gateways:
        ip(f"route add default via {gateway}")


@pytest.fixture
def world(node: World) -> World:
    """With its subscriber, and without the bindings of the test before."""
    node.dataplane.apply([RemoveEntry(3)])
    node.dataplane.sweep()
    node.dataplane.apply([SetEntry(3, node.entry())])
    return node


@pytest.mark.parametrize("family", FAMILIES)
def test_a_datagram_leaves_with_the_exit_address_and_its_answer_comes_back(world: World, family: int) -> None:
    with world.server(family, socket.SOCK_DGRAM) as server, world.client(family, socket.SOCK_DGRAM) as client:
        client.sendto(b"question", (SITE[family], 7))
        question, seen = server.recvfrom(100)
        server.sendto(b"answer", seen)
        assert (question, seen[0], client.recv(100)) == (b"question", EXIT[family], b"answer")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_connection_carries_a_mebibyte_and_its_echo(world: World, family: int) -> None:
    sent = os.urandom(2**20)
    with world.server(family, socket.SOCK_STREAM) as server, world.client(family, socket.SOCK_STREAM) as client:
        client.connect((SITE[family], 7))
        accepted, seen = server.accept()
        with accepted:
            accepted.settimeout(PATIENCE_S)
            received = bytearray()
            for at in range(0, len(sent), 2**16):
                client.sendall(sent[at : at + 2**16])
                while len(received) < at + 2**16:
                    received += accepted.recv(2**16)
    assert seen[0] == EXIT[family]
    assert bytes(received) == sent


def test_a_removed_peer_is_cut_off_in_both_directions(world: World) -> None:
    family = socket.AF_INET
    with world.server(family, socket.SOCK_DGRAM) as server, world.client(family, socket.SOCK_DGRAM) as client:
        client.sendto(b"before", (SITE[family], 7))
        _, seen = server.recvfrom(100)
        assert world.dataplane.sweep().live == 1
        unknown = world.dataplane.counters()["UNKNOWN_SOURCE"]
        world.dataplane.apply([RemoveEntry(3)])
        server.settimeout(0.2)
        client.settimeout(0.2)
        client.sendto(b"after", (SITE[family], 7))
        with pytest.raises(TimeoutError):
            server.recv(100)
        server.sendto(b"after", seen)
        with pytest.raises(TimeoutError):
            client.recv(100)
    assert world.dataplane.counters()["UNKNOWN_SOURCE"] == unknown + 1
    swept = world.dataplane.sweep()
    assert (swept.released, swept.live) == (1, 0), "the binding may have gone with the packet that found it dead"


def test_a_flow_goes_on_through_an_exchange_of_the_programs(world: World) -> None:
    family = socket.AF_INET
    with world.server(family, socket.SOCK_DGRAM) as server, world.client(family, socket.SOCK_DGRAM) as client:
        client.sendto(b"before", (SITE[family], 7))
        _, before = server.recvfrom(100)
        world.load(nat={"udp_timeout": 3600, "max_bindings": 2048})  # a guest compiles for minutes
        server.sendto(b"still there", before)
        assert client.recv(100) == b"still there"
        client.sendto(b"after", (SITE[family], 7))
        assert server.recvfrom(100)[1] == before, "the same external port, in maps of another size"
