"""The guard in native mode on a real link, with real sockets on both sides.

  node ── veth ── site
  up0, guard       eth0
192.0.2.1        192.0.2.7, 192.0.2.8
2001:db8:1::1    2001:db8:1::7, 2001:db8:1::8
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest

from jetplane.config import Service
from jetplane.dataplane.host import write_services
from jetplane.dataplane.links import Links
from jetplane.lab.waiting import patience
from tests.bpf.conftest import NodeFactory
from tests.bpf.guard_world import refill_echo
from tests.bpf.harness import Node, inside, new_namespace

NODE = {4: "192.0.2.1", 6: "2001:db8:1::1"}
SITE = {4: "192.0.2.7", 6: "2001:db8:1::7"}
OTHER = {4: "192.0.2.8", 6: "2001:db8:1::8"}
FAMILIES = (4, 6)
OPEN, CLOSED = 2222, 2223
"""Ports that the node listens at: one is open to SITE alone, one to nobody."""
PATIENCE = patience(5)
"""Seconds until what must arrive has arrived, even on a busy machine."""


@pytest.fixture(scope="module")
def site(root: None) -> Iterator[int]:
    """The other side of the link: a network namespace."""
    made = new_namespace()
    yield made
    os.close(made)


@pytest.fixture(scope="module")
def attached(root: None, make_node: NodeFactory, site: int) -> Node:
    """A node with the guard on its uplink, in native mode."""
    node = make_node(source="guard.bpf.c", peers={"max": 65})  # with a namespace of its own
    with inside(site):
        _ip("link set lo up", "link add eth0 type veth peer name up0", f"link set up0 netns {_path(node.namespace)}")
        _ip(*_addresses("eth0", SITE, OTHER), "link set eth0 up")
    with inside(node.namespace):
        _ip("link set lo up", *_addresses("up0", NODE), "link set up0 up")
        ifindex = socket.if_nametoindex("up0")
        with Links() as links:
            for address in links.addresses(ifindex):
                node.maps["own_addresses"].update(address, 1)
            links.set_xdp(ifindex, node.descriptor("guard"), "native")
            there = links.xdp(ifindex)
    assert there is not None
    assert there.mode == "native"
    _admit(node)
    return node


def _admit(node: Node, *more: Service) -> None:
    """Have these services open, and one more to SITE."""
    services = (*(_open(version, socket.IPPROTO_TCP, OPEN) for version in FAMILIES), *more)
    write_services(node.maps["services"], node.maps["local_ports"], services)


def _open(version: int, protocol: int, port: int) -> Service:
    """Open to SITE alone."""
    name: Literal["tcp", "udp"] = "tcp" if protocol == socket.IPPROTO_TCP else "udp"
    return Service(protocol=name, port=port, sources=(f"{SITE[version]}/{32 if version == 4 else 128}",))


@contextmanager
def _service(node: Node, version: int, protocol: int, port: int) -> Iterator[None]:
    """Open a service to SITE for a while."""
    _admit(node, _open(version, protocol, port))
    yield
    _admit(node)


def _path(namespace: int) -> str:
    return f"/proc/{os.getpid()}/fd/{namespace}"


def _ip(*commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands).encode(), check=True, timeout=10)


def _addresses(interface: str, *sets: dict[int, str]) -> list[str]:
    bits = {4: 24, 6: 64}
    return [f"addr add {a}/{bits[v]} dev {interface}{' nodad' * (v == 6)}" for s in sets for v, a in s.items()]


@contextmanager
def _socket(namespace: int, address: str, kind: int, port: int = 0) -> Iterator[socket.socket]:
    """A socket that lives in a namespace, bound there; it gives up after PATIENCE."""
    with inside(namespace):
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    with made:
        made.settimeout(PATIENCE)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        yield made


def _nothing_has_come(listening: socket.socket) -> bool:
    """For use after something sent later has come: the link keeps the order."""
    listening.setblocking(False)
    try:
        listening.accept() if listening.type == socket.SOCK_STREAM else listening.recv(1)
    except BlockingIOError:
        return True
    finally:
        listening.settimeout(PATIENCE)
    return False


@pytest.mark.parametrize("version", FAMILIES)
def test_the_nodes_own_connection_needs_no_rule(attached: Node, site: int, version: int) -> None:
    with (
        _socket(site, SITE[version], socket.SOCK_STREAM, 443) as server,
        _socket(attached.namespace, NODE[version], socket.SOCK_STREAM) as client,
    ):
        server.listen()
        client.connect((SITE[version], 443))
        connection, _ = server.accept()
        with connection:
            client.sendall(b"question")
            assert connection.recv(100) == b"question"
            connection.sendall(b"answer" * 10_000)
            connection.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: client.recv(65536), b"")) == b"answer" * 10_000


@pytest.mark.parametrize("version", FAMILIES)
def test_the_nodes_own_query_gets_its_answer_and_no_impostors(attached: Node, site: int, version: int) -> None:
    with (
        _socket(site, SITE[version], socket.SOCK_DGRAM, 53) as resolver,
        _socket(site, OTHER[version], socket.SOCK_DGRAM, 53) as impostor,
        _socket(attached.namespace, NODE[version], socket.SOCK_DGRAM) as client,
    ):
        client.connect((SITE[version], 53))
        client.send(b"question")
        question, asker = resolver.recvfrom(100)
        assert question == b"question"
        before = attached.counters()["NOT_ALLOWED"]
        impostor.sendto(b"lie", asker)
        resolver.sendto(b"answer", asker)
        assert client.recv(100) == b"answer"
        assert attached.counters()["NOT_ALLOWED"] > before


@pytest.mark.parametrize("version", FAMILIES)
def test_a_service_is_reachable_from_its_prefix_only(attached: Node, site: int, version: int) -> None:
    with (
        _socket(attached.namespace, NODE[version], socket.SOCK_STREAM, OPEN) as opened,
        _socket(attached.namespace, NODE[version], socket.SOCK_STREAM, CLOSED) as closed,
        _socket(site, OTHER[version], socket.SOCK_STREAM) as intruder,
        _socket(site, SITE[version], socket.SOCK_STREAM) as curious,
        _socket(site, SITE[version], socket.SOCK_STREAM) as admitted,
    ):
        opened.listen()
        closed.listen()
        before = attached.counters()["NOT_ALLOWED"]
        for client, port in ((intruder, OPEN), (curious, CLOSED)):
            client.setblocking(False)
            assert client.connect_ex((NODE[version], port)) == errno.EINPROGRESS
        admitted.connect((NODE[version], OPEN))
        connection, peer = opened.accept()
        connection.close()
        assert peer[:2] == admitted.getsockname()[:2]
        assert _nothing_has_come(opened)
        assert _nothing_has_come(closed)
        assert attached.counters()["NOT_ALLOWED"] >= before + 2


@pytest.mark.parametrize("version", FAMILIES)
def test_a_service_opens_and_closes_while_the_guard_runs(attached: Node, site: int, version: int) -> None:
    with _socket(attached.namespace, NODE[version], socket.SOCK_STREAM, CLOSED) as listening:
        listening.listen()
        with (
            _service(attached, version, socket.IPPROTO_TCP, CLOSED),
            _socket(site, SITE[version], socket.SOCK_STREAM) as client,
        ):
            client.connect((NODE[version], CLOSED))
            listening.accept()[0].close()
        with (
            _socket(attached.namespace, NODE[version], socket.SOCK_STREAM, OPEN) as marker,
            _socket(site, SITE[version], socket.SOCK_STREAM) as late,
            _socket(site, SITE[version], socket.SOCK_STREAM) as admitted,
        ):
            marker.listen()
            late.setblocking(False)
            late.connect_ex((NODE[version], CLOSED))
            admitted.connect((NODE[version], OPEN))
            assert _nothing_has_come(listening)


@pytest.mark.parametrize("version", FAMILIES)
def test_a_socket_that_is_only_bound_hears_nobody(attached: Node, site: int, version: int) -> None:
    with (
        _socket(attached.namespace, NODE[version], socket.SOCK_DGRAM, OPEN) as opened,
        _socket(attached.namespace, NODE[version], socket.SOCK_DGRAM, CLOSED) as closed,
        _socket(site, SITE[version], socket.SOCK_DGRAM) as sender,
        _service(attached, version, socket.IPPROTO_UDP, OPEN),
    ):
        sender.sendto(b"first", (NODE[version], CLOSED))
        sender.sendto(b"second", (NODE[version], OPEN))
        assert opened.recv(100) == b"second"
        assert _nothing_has_come(closed)


@pytest.mark.parametrize("version", FAMILIES)
def test_both_sides_can_ping(attached: Node, site: int, version: int) -> None:
    for namespace, target in ((site, NODE), (attached.namespace, SITE)):
        refill_echo(attached)
        with inside(namespace):
            command = ["ping", "-c", "1", "-W", str(PATIENCE), target[version]]
            subprocess.run(command, check=True, timeout=10, stdout=subprocess.DEVNULL)
