"""What the NAT's tests with real stacks share: sockets on either side of a running node, and two more places.

lab one                                                          lab two (only where two nodes are needed)
subscriber1 ─┐                                                                  ┌─ subscriber1
             ├─ node ── internet ──────────── joined ──────────── internet ─ node ─┤
subscriber2 ─┘             │ far0 192.0.2.129       192.0.2.133 ↔ .134             └─ subscriber2
                          far  192.0.2.130, 2001:db8:2::2: a host with a router between it and the node
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from typing import Any

import pyroute2

from jetplane import config
from jetplane.dataplane.node import DataPlane
from jetplane.lab import links, namespaces
from jetplane.lab.addresses import SITES_IPV4, SITES_IPV6
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience, wait_until

FAMILIES = (4, 6)
SITES = {4: SITES_IPV4, 6: SITES_IPV6}
FAR = {4: "192.0.2.130", 6: "2001:db8:2::2"}
FAR_ROUTER = {4: "192.0.2.129", 6: "2001:db8:2::1"}
TO_FAR = "far0"
"""The internet's end of the link to the far host."""
JOINT = {4: "192.0.2.133", 6: "2001:db8:3::1"}
"""The first lab's end of the link between two internets: a host that both labs' subscribers reach."""
_OTHER_JOINT = {4: "192.0.2.134", 6: "2001:db8:3::2"}
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}
_LENGTH = {4: 30, 6: 64}
_IP_MTU_DISCOVER, _IP_MTU = 10, 14  # linux/in.h
_IPV6_MTU_DISCOVER, _IPV6_MTU = 23, 24  # linux/in6.h
_PMTUDISC_DO = 2
_UDP = 1  # enum protocol in ebpf/abi.h


def far(lab: Lab) -> str:
    """The namespace of the far host."""
    return f"jetlab-{lab.name}-far"


def add_far_host(lab: Lab) -> None:
    """Put a host behind the lab's internet. It goes with the lab."""
    host, internet = far(lab), lab.plan.internet
    namespaces.create(host)
    namespaces.write_sysctls(host, {"ipv6/conf/default/accept_dad": 0, "ipv4/icmp_ratelimit": 0})
    links.pair(links.End(internet, TO_FAR, _ends(FAR_ROUTER)), links.End(host, "eth0", _ends(FAR)))
    links.add_routes(host, [("0.0.0.0/0", FAR_ROUTER[4], "eth0"), ("::/0", FAR_ROUTER[6], "eth0")])


def join(one: Lab, other: Lab) -> None:
    """Make one internet of two labs', for the subscribers of both."""
    here, there = one.plan.internet, other.plan.internet
    links.pair(links.End(here, "joint0", _ends(JOINT)), links.End(there, "joint0", _ends(_OTHER_JOINT)))
    for lab, neighbour, gateway in ((one, other, _OTHER_JOINT), (other, one, JOINT)):
        routes = [(f"{address}/32", gateway[4], "joint0") for address in neighbour.plan.exit_ipv4]
        routes += [(f"{address}/128", gateway[6], "joint0") for address in neighbour.plan.exit_ipv6]
        links.add_routes(lab.plan.internet, routes)


def _ends(addresses: dict[int, str]) -> tuple[str, ...]:
    return tuple(f"{address}/{_LENGTH[family]}" for family, address in addresses.items())


def exits(lab: Lab, family: int) -> tuple[str, ...]:
    """The node's exit addresses of a family."""
    return lab.plan.exit_ipv4 if family == 4 else lab.plan.exit_ipv6


def inner(lab: Lab, subscriber: int, family: int) -> str:
    """A subscriber's inner address."""
    plan = lab.plan.subscribers[subscriber]
    return str(plan.inner_ipv4 if family == 4 else plan.inner_ipv6)


def subscriber(lab: Lab, number: int) -> str:
    """A subscriber's namespace."""
    return lab.plan.subscribers[number].namespace


def udp(namespace: str, family: int, port: int = 0, address: str = "") -> socket.socket:
    """A bound UDP socket that gives up after five seconds."""
    return _socket(namespace, family, socket.SOCK_DGRAM, (address, port))


def tcp(namespace: str, family: int, port: int = 0, address: str = "") -> socket.socket:
    """A bound TCP socket that gives up after five seconds."""
    return _socket(namespace, family, socket.SOCK_STREAM, (address, port))


def _socket(namespace: str, family: int, kind: socket.SocketKind, place: tuple[str, int]) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(_AF[family], kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(place)
        made.settimeout(patience(5))
        return made

    return namespaces.inside(namespace, make)


def forbid_fragments(made: socket.socket, family: int) -> None:
    """Let nobody fragment what the socket sends, and the kernel refuse what is larger than the path's MTU (ip(7))."""
    level, option = (socket.IPPROTO_IP, _IP_MTU_DISCOVER) if family == 4 else (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
    made.setsockopt(level, option, _PMTUDISC_DO)


def forget_paths(lab: Lab, *hosts: str) -> None:
    """Let hosts, given by their namespaces, forget the path MTUs that they have learned."""
    for host, family in itertools.product(hosts, ("-4", "-6")):
        program(lab, host, "ip", family, "route", "flush", "cache")


def set_offloads(lab: Lab, ends: Iterable[tuple[str, str]], *settings: str) -> None:
    """Switch offloads of interfaces, given with their namespaces, like ethtool(8) -K: "tso", "off"."""
    for namespace, interface in ends:
        program(lab, namespace, "ethtool", "-K", interface, *settings)


def path_mtu(made: socket.socket, family: int) -> int:
    """What the kernel knows of the connected socket's path."""
    level, option = (socket.IPPROTO_IP, _IP_MTU) if family == 4 else (socket.IPPROTO_IPV6, _IPV6_MTU)
    return made.getsockopt(level, option)


@contextmanager
def talking(client_namespace: str, site_namespace: str, site: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A subscriber's UDP socket and a site's, connected to each other through the node."""
    family = 6 if ":" in site else 4
    with udp(client_namespace, family) as client, udp(site_namespace, family, address=site) as server:
        client.connect(server.getsockname()[:2])
        client.send(b"hello")
        server.connect(server.recvfrom(100)[1][:2])
        server.send(b"hello")
        assert client.recv(100) == b"hello"
        yield client, server


@contextmanager
def connection(lab: Lab, family: int, number: int = 0) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection from a subscriber to the far host: the subscriber's socket and the far one's."""
    with tcp(far(lab), family, address=FAR[family]) as listener, tcp(subscriber(lab, number), family) as client:
        listener.listen()
        client.connect(listener.getsockname()[:2])
        with listener.accept()[0] as server:
            server.settimeout(patience(10))
            yield client, server


def send_some(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    """Let the receiver read `size` bytes, and compare them."""
    sent = os.urandom(size)
    thread = threading.Thread(target=sender.sendall, args=(sent,), daemon=True)
    thread.start()
    received = bytearray()
    while len(received) < size and (more := receiver.recv(1 << 20)):
        received += more
    thread.join()
    assert sha256(received).digest() == sha256(sent).digest()


def program(lab: Lab, namespace: str, *arguments: str, seconds: float = 30) -> str:
    """Run a program to its end; return all it said."""
    done = namespaces.run(namespace, arguments, lab=lab.name, timeout=patience(seconds))
    return (done.stdout + done.stderr).decode(errors="replace")


def counters(lab: Lab) -> dict[str, int]:
    """The node's counters."""
    return dict(lab.node.report().counters)


def wait_for_rise(lab: Lab, name: str, before: dict[str, int], rise: int = 1) -> None:
    """Wait until a counter has risen by so much."""
    wait_until(f"{name} to rise by {rise}", lambda: counters(lab)[name] >= before[name] + rise)


def change_configuration(labs: Iterable[Lab], change: Callable[[str], str]) -> None:
    """Edit the configuration of running nodes and wait until they have taken it."""
    waiting = []
    for lab in labs:
        said = lab.node.log.read_text().count("configuration reloaded")
        text = lab.node.config.read_text()
        lab.node.config.write_text(change(text))
        lab.node.reload()
        waiting.append((lab, said))
    for lab, said in waiting:
        wait_until("the reload", lambda lab=lab, said=said: _reloaded(lab, said), seconds=60)  # type: ignore[misc]


def _reloaded(lab: Lab, before: int) -> bool:
    return lab.node.log.read_text().count("configuration reloaded") > before and lab.node.report().healthy


def set_filtering(labs: Iterable[Lab], filtering: str) -> None:
    """Let running nodes filter in this way."""

    def change(text: str) -> str:
        head, _, rest = text.partition("filtering = ")
        return f'{head}filtering = "{filtering}"\n{rest.partition(chr(10))[2]}'

    change_configuration(labs, change)


@contextmanager
def maps(lab: Lab) -> Iterator[Callable[[str], Any]]:
    """Open the running node's maps by name."""
    with ExitStack() as stack:
        dataplane = namespaces.inside(lab.plan.node, lambda: DataPlane(config.load(lab.node.config)))
        stack.callback(dataplane.close)
        yield dataplane._map


def udp_slot(lab: Lab, bindings: Any, family: int, port: int) -> int:
    """Where in the map of bindings the one at an external UDP port lies (ebpf/abi.h, struct binding)."""
    exits_before = 0 if family == 4 else len(lab.plan.exit_ipv4)
    addresses = len(lab.plan.exit_ipv4) + len(lab.plan.exit_ipv6)
    protocols = bindings.info.max_entries // 65536 // addresses
    return int((exits_before * protocols + _UDP) * 65536 + port)


@contextmanager
def narrowed(namespace: str, interface: str, mtu: int) -> Iterator[None]:
    """Let an interface carry no more than `mtu` bytes meanwhile."""
    before = _mtu(namespace, interface)
    links.set_up(links.End(namespace, interface), mtu=mtu)
    try:
        yield
    finally:
        links.set_up(links.End(namespace, interface), mtu=before)


def _mtu(namespace: str, interface: str) -> int:
    def read() -> int:
        with pyroute2.IPRoute() as route:
            [link] = route.link("get", index=route.link_lookup(ifname=interface)[0])
            return int(link.get_attr("IFLA_MTU"))

    return namespaces.inside(namespace, read)
