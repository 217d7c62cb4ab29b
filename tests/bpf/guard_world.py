"""The node that the guard's rows are about: its addresses, services, bindings and sockets."""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from jetplane.config import Service
from jetplane.dataplane.host import write_own_addresses, write_services
from jetplane.dataplane.links import packed
from jetplane.dataplane.maps import Map
from tests.bpf.harness import Node, inside

EXIT = {4: "203.0.113.10", 6: "2001:db8::a"}
"""Exit addresses that are routed to the node, with one binding for each protocol at BOUND."""
BOUND = 2000
"""The external port, or ICMP identifier, of those bindings."""
BOUND_SECOND = 3000
"""A UDP port that is bound on the second exit addresses only."""
BOUND_ONCE = 3001
"""Bound for one protocol only: TCP at 3001, UDP at 3002, ICMP at 3003."""
EXIT_OWN = {4: "203.0.113.11", 6: "2001:db8::b"}
"""Exit addresses that are assigned to the uplink too, with the same bindings."""
NODE = {4: "192.0.2.1", 6: "2001:db8:0:1::1"}
"""Addresses that are only assigned."""
SITE = {4: "198.51.100.7", 6: "2001:db8:f::7"}
"""Somebody on the internet, in the prefixes that services are open to."""
OTHER = {4: "198.18.0.9", 6: "2001:db8:e::9"}
"""Somebody else."""
SILENT = {4: "198.51.100.8", 6: "2001:db8:f::8"}
"""A site that never answers, so that a connection to it stays half open."""
STRANGER = {4: "192.0.2.77", 6: "2001:db8:0:1::77"}
"""Nobody's address on the link."""
INNER = {4: "10.64.3.4", 6: "fd00::34"}
"""A subscriber."""
LINK_LOCAL = "fe80::1"

WIREGUARD, WIREGUARD_2 = 51820, 51821
SSH, SYSLOG = 22, 514
"""Open to SITE's prefixes: TCP and UDP."""
EVERYWHERE = {4: 2204, 6: 2206}
"""TCP ports that are open to everybody of one family."""

CONNECTED, OPENING, CLOSED, LISTENING = 40443, 40081, 40444, 8080
QUERYING, RECEIVING = 40053, 5353
"""Ports of the node's own sockets, TCP and UDP; none of them is open to anybody."""
CLOSED_PORT = 4242
"""Where nothing listens."""


def prepare(node: Node) -> None:
    """Give the node its addresses, open its services to SITE's prefixes, and make the bindings."""
    own(node, *NODE.values(), *EXIT_OWN.values(), LINK_LOCAL)
    sources = ("198.51.100.0/24", "2001:db8:f::/48")
    services = (
        Service(protocol="tcp", port=SSH, sources=sources),
        Service(protocol="udp", port=SYSLOG, sources=sources),
        Service(protocol="tcp", port=EVERYWHERE[4], sources=("0.0.0.0/0",)),
        Service(protocol="tcp", port=EVERYWHERE[6], sources=("::/0",)),
    )
    write_services(node.maps["services"], node.maps["local_ports"], services)
    for exit_index in range(4):
        for protocol in range(3):
            bind(node, exit_index, protocol, BOUND)
            bind(node, exit_index, protocol, BOUND_ONCE + protocol)
        if exit_index % 2:
            bind(node, exit_index, 1, BOUND_SECOND)


def own(node: Node, *addresses: str) -> None:
    """Let these addresses be the node's own, and no others."""
    write_own_addresses(node.maps["own_addresses"], node.maps["own_slots"], map(packed, addresses))


def bind(node: Node, exit_index: int, protocol: int, port: int) -> None:
    """Make a binding, as far as the guard looks: its state says that somebody holds it."""
    slot = (exit_index * 3 + protocol) * 65536 + port
    binding = node.maps["bindings"].value()
    binding.life = 2 << 32
    node.maps["bindings"].update(slot, binding)
    block = node.maps["blocks"].value()
    block.used = (1 << 64) - 1
    node.maps["blocks"].update(slot // 64, block)


def refill_echo(node: Node) -> None:
    """Let every CPU take ICMP echo at once."""
    node.fill("echo_bucket", 0, bytes(8))


def spend_echo(node: Node) -> None:
    """Leave no CPU a token for ICMP echo."""
    node.fill("echo_bucket", 0, (1 << 63).to_bytes(8, "little"))


def refill_looks(node: Node) -> None:
    """Let sockets be looked for at CLOSED_PORT and the ports of `sockets`, whether they are known to be used or not."""
    _set_looks(node, 0)


def spend_looks(node: Node) -> None:
    """Leave them no such look, as a flood does that never ends."""
    _set_looks(node, 1 << 63)


def _set_looks(node: Node, paid_until: int) -> None:
    tcp = {port // 64 for port in (CONNECTED, OPENING, CLOSED, LISTENING, CLOSED_PORT)}
    udp = {(1 << 16 | port) // 64 for port in (QUERYING, RECEIVING, CLOSED_PORT)}
    for index in tcp | udp:
        word = node.maps["local_ports"].lookup(index)
        word.paid_until = paid_until
        node.maps["local_ports"].update(index, word)


def used_ports(ports: Map) -> set[tuple[int, int]]:
    """(IP protocol, port), of all that this map of local ports knows to be used."""
    words = [(index, word.used[0] | word.used[1]) for index, word in ports.items()]
    places = [index * 64 + bit for index, used in words if used for bit in range(64) if used >> bit & 1]
    return {(socket.IPPROTO_UDP if place >> 16 else socket.IPPROTO_TCP, place & 0xFFFF) for place in places}


@contextmanager
def sockets(node: Node) -> Iterator[None]:
    """Open the node's own sockets, for CONVERSATIONS: real ones, in its namespace."""
    with inside(node.namespace), ExitStack() as stack:
        _configure()
        stack.callback(_ip, "link del cable")
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):

            def opened(kind: int, family: int = family) -> socket.socket:
                made = stack.enter_context(socket.socket(family, kind))
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                return made

            here, there = NODE[version], SITE[version]
            site = opened(socket.SOCK_STREAM)
            site.bind((there, 443))
            site.listen()
            for port in (CONNECTED, CLOSED):
                connection = opened(socket.SOCK_STREAM)
                connection.bind((here, port))
                connection.connect((there, 443))
                peer = stack.enter_context(site.accept()[0])
                if port == CLOSED:  # the side that closes first is left waiting
                    connection.close()
                    peer.close()
            half = opened(socket.SOCK_STREAM)
            half.bind((here, OPENING))
            half.setblocking(False)
            assert half.connect_ex((SILENT[version], 81)) == errno.EINPROGRESS
            listening = opened(socket.SOCK_STREAM)
            listening.bind((here, LISTENING))
            listening.listen()
            query = opened(socket.SOCK_DGRAM)
            query.bind((here, QUERYING))
            query.connect((there, 53))
            opened(socket.SOCK_DGRAM).bind((here, RECEIVING))
        yield


def _configure() -> None:
    """Both ends of a conversation live on the loopback of the namespace; SILENT's end of a cable hears nobody."""
    batch = ["link set lo up", "link add cable type veth peer name silence", "link set cable up", "link set silence up"]
    for version, bits, at_once in ((4, 32, ""), (6, 128, "nodad")):
        batch += [f"addr replace {address[version]}/{bits} dev lo {at_once}" for address in (NODE, SITE)]
        batch += [f"route replace {SILENT[version]}/{bits} dev cable"]
        batch += [f"neigh replace {SILENT[version]} lladdr 02:00:00:00:00:99 dev cable nud permanent"]
    _ip(*batch)


def _ip(*commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands).encode(), check=True, timeout=10)
