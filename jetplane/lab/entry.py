"""An entry node for multi-hop: a second `jetplane run`, which passes subscribers' packets on to the lab's exit node.

subscriber ── internet ── entry   203.0.113.1xx        The subscriber's outer packets go to the entry and
                  │               198.51.100.6/30      from there to the node; neither knows both ends.
                  └────── node

"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from jetplane.admin import client
from jetplane.dataplane import bpf
from jetplane.dataplane.links import Links, interface_index
from jetplane.dataplane.programs import ProgramType
from jetplane.errors import JetplaneError
from jetplane.journal import Feature
from jetplane.lab import clients, links, namespaces
from jetplane.lab.addresses import LISTEN_PORT, NODE_IPV4, NODE_IPV6, OUTER, TUNNEL_MTU, UPLINK
from jetplane.lab.node import Node
from jetplane.lab.topology import Lab
from jetplane.lab.traffic import Visit
from jetplane.lab.waiting import patience
from jetplane.network import features
from jetplane.preflight import probe

_XDP_PASS = 2  # linux/bpf.h

ENTRY_IPV4 = IPv4Interface("198.51.100.6/30")
ENTRY_IPV6 = IPv6Interface("2001:db8:101::2/64")
_GATEWAY_IPV4 = IPv4Interface("198.51.100.5/30")
_GATEWAY_IPV6 = IPv6Interface("2001:db8:101::1/64")
FAR_IPV4, FAR_IPV6 = IPv4Interface("100.64.9.2/30"), IPv6Interface("2001:db8:c9::2/64")
PROVIDER_IPV4, PROVIDER_IPV6 = IPv4Interface("100.64.9.1/30"), IPv6Interface("2001:db8:c9::1/64")
INNER = ("198.18.77.77", "2001:db8:64::7777")
"""The far subscriber's outer and inner addresses."""

_EXIT_IPV4, _EXIT_IPV6 = "203.0.113.200", "2001:db8:e::200"
PROVIDER = "provider9"
"""The internet's end of the far subscriber's link."""
TO_ENTRY = "entry0"
"""The internet's end of the entry's uplink."""

PORTS = {4: 51840, 6: 51841}
"""Where the entry listens for the node, by the family of the way from the entry to the node."""

_CONFIGURATION = """\
# The entry node of a lab.
run_directory = "{directory}/run"

[uplink]
interface = "{uplink}"

[exit]
ipv4 = ["{exit_ipv4}"]
ipv6 = ["{exit_ipv6}"]
routed = true

[[tunnel]]
name = "{tunnel}"
listen_port = 51820
private_key_file = "entry.key"
addresses = ["10.99.0.1/16"]

[peers]
path = "peers.toml"

[guard]
bogons = false

[relay]
to = [
    {{ listen_port = {port4}, exit = "{node_ipv4}:{node_port}" }},
    {{ listen_port = {port6}, exit = "[{node_ipv6}]:{node_port}" }},
{more}]

[metrics]
enabled = false
"""


@dataclass(frozen=True, slots=True)
class MultiHop:
    """An entry node that runs, and its subscriber. Made by `multihop()` only."""

    lab: Lab
    entry: Node
    namespace: str
    interface: str
    public_key: str
    node_key: str

    def dial(self, here: int, there: int) -> None:
        """Have the subscriber speak to the entry over one family, for a way on over another or by another port there.

        It knows no key any more that it had agreed upon, and sends from one port for each of these ways.
        """
        address = str((ENTRY_IPV4 if here == 4 else ENTRY_IPV6).ip)
        host = f"[{address}]" if here == 6 else address
        self.wg("peer", self.node_key, "remove")
        self.wg("listen-port", str(50000 + 10 * here + there % 10))
        self.wg("peer", self.node_key, "endpoint", f"{host}:{PORTS.get(there, there)}", "allowed-ips", "0.0.0.0/0,::/0")

    def wg(self, *arguments: str) -> None:
        """`wg set` on the subscriber's interface."""
        command = ["wg", "set", self.interface, *arguments]
        done = namespaces.run(self.namespace, command, lab=self.lab.name, timeout=patience(10))
        if done.returncode:
            raise JetplaneError(f"lab: wg set {self.interface}: {done.stderr.decode().strip()}")

    def endpoint(self) -> str:
        """Where the exit node has the subscriber: at the entry, and a port of its session there."""
        node = self.lab.plan.node, self.lab.plan.tunnels[0].name
        return self.shown(*node, self.public_key, "endpoints")

    def shown(self, namespace: str, interface: str, key: str, what: str) -> str:
        """What wg(8) shows of a peer: its endpoint, or when it last made a handshake."""
        done = namespaces.run(namespace, ["wg", "show", interface, what], lab=self.lab.name, timeout=patience(10))
        return next(line.split()[1] for line in done.stdout.decode().splitlines() if line.startswith(key))

    def visit(self, site: str) -> Visit:
        """The subscriber at a site."""
        return Visit(self.lab.name, self.namespace, site)


@contextmanager
def running(entry: Node) -> Iterator[None]:
    """The entry's daemon; afterwards all that it made is undone."""
    entry.start()
    try:
        yield
    finally:
        entry.jetplane("down")
        entry.reap()


Way = Callable[[Node], AbstractContextManager[None]]
"""How an entry that has its files comes to work, and ends: `running`, or something lighter for tests."""


@contextmanager
def multihop(lab: Lab, more: str = "", *, run: Way = running) -> Iterator[MultiHop]:
    """Add an entry node and its subscriber to a lab whose node runs; afterwards they have gone.

    `more` are further relays of the entry: lines as they stand in its file.
    """
    entry = _make_entry(lab, more)
    try:
        with run(entry), _far_subscriber(lab, entry) as made:
            yield made
    finally:
        namespaces.remove(entry.namespace)


@contextmanager
def _far_subscriber(lab: Lab, entry: Node) -> Iterator[MultiHop]:
    namespace, interface = f"jetlab-{lab.name}-far", f"jl{lab.name}s9"
    private_key = clients.generate_private_key()
    public_key = clients.public_key(private_key)
    node_key = clients.public_key((lab.directory / "node.key").read_text())
    with ExitStack() as undo:
        undo.callback(namespaces.remove, namespace)
        _make_far_links(lab, namespace)
        log = lab.directory / "far.log"
        process = clients.make_interface(namespace, interface, lab=lab.name, backend=lab.options.backend, log=log)
        if process is not None:
            undo.callback(namespaces.kill, process)
        made = MultiHop(lab, entry, namespace, interface, public_key, node_key)
        key_file = lab.directory / "far.key"
        key_file.touch(mode=0o600)
        key_file.write_text(private_key)
        made.wg("private-key", str(key_file))
        undo.enter_context(_introduced(lab.node, public_key))
        links.set_up(links.End(namespace, interface, tuple(_whole(address) for address in INNER)), mtu=TUNNEL_MTU)
        links.add_routes(namespace, [("0.0.0.0/0", "", interface), ("::/0", "", interface)])
        yield made


@contextmanager
def _introduced(node: Node, public_key: str) -> Iterator[None]:
    """The subscriber as a peer of the exit node, by what `jetplane peers` asks of its controller."""
    record = {"public_key": public_key, "allowed_ips": [*map(_whole, INNER)]}
    client.ask(node.run_directory, "POST", "/v1/peers/add", {"peers": [record]})
    try:
        yield
    finally:
        with suppress(client.NotRunning):
            client.ask(node.run_directory, "POST", "/v1/peers/remove", {"public_keys": [public_key]})


def _whole(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def _make_far_links(lab: Lab, namespace: str) -> None:
    namespaces.create(namespace)
    namespaces.write_sysctls(namespace, {"ipv6/conf/default/accept_dad": 0})
    links.pair(
        links.End(namespace, OUTER, (str(FAR_IPV4), str(FAR_IPV6))),
        links.End(lab.plan.internet, PROVIDER, (str(PROVIDER_IPV4), str(PROVIDER_IPV6))),
    )
    write_checksums(namespace, OUTER)
    to_entry = [
        (f"{ENTRY_IPV4.ip}/32", str(PROVIDER_IPV4.ip), OUTER),
        (f"{ENTRY_IPV6.ip}/128", str(PROVIDER_IPV6.ip), OUTER),
    ]
    links.add_routes(namespace, to_entry)


def _make_entry(lab: Lab, more: str) -> Node:
    """Make the entry node up to the moment before its daemon starts."""
    namespace, internet = f"jetlab-{lab.name}-entry", lab.plan.internet
    namespaces.create(namespace)
    namespaces.write_sysctls(namespace, {"ipv6/conf/default/accept_dad": 0})
    links.pair(
        links.End(namespace, UPLINK, (str(ENTRY_IPV4), str(ENTRY_IPV6))),
        links.End(internet, TO_ENTRY, (str(_GATEWAY_IPV4), str(_GATEWAY_IPV6))),
    )
    links.add_routes(namespace, [("0.0.0.0/0", str(_GATEWAY_IPV4.ip), UPLINK), ("::/0", str(_GATEWAY_IPV6.ip), UPLINK)])
    let_xdp_send(internet, TO_ENTRY)
    write_checksums(lab.plan.node, UPLINK)
    directory = lab.directory / "entry"
    directory.mkdir(exist_ok=True)
    key = directory / "entry.key"
    key.touch(mode=0o600)
    key.write_text(clients.generate_private_key() + "\n")
    (directory / "peers.toml").write_text("")
    (directory / "jetplane.toml").write_text(
        _CONFIGURATION.format(
            directory=directory,
            uplink=UPLINK,
            exit_ipv4=_EXIT_IPV4,
            exit_ipv6=_EXIT_IPV6,
            tunnel=f"jl{lab.name}n9",
            port4=PORTS[4],
            port6=PORTS[6],
            node_ipv4=NODE_IPV4.ip,
            node_ipv6=NODE_IPV6.ip,
            node_port=LISTEN_PORT,
            more=more,
        )
    )
    return Node(lab.name, namespace, directory)


def write_checksums(namespace: str, interface: str) -> None:
    """Have an interface's own packets leave with their checksums written, as on a real wire.

    A virtual link leaves them out, and a packet that XDP sends on has lost the note of it.
    """
    namespaces.inside(namespace, lambda: features.write(Feature(interface, "tx-checksum-ip-generic"), "off"))


def let_xdp_send(namespace: str, far_end: str) -> None:
    """A virtual link takes what XDP sends only when its far end runs an XDP program, too (veth_xdp_flush)."""

    def pass_everything() -> None:
        with bpf.opened(probe.load(ProgramType.XDP, returns=_XDP_PASS)) as program, Links() as route:
            route.set_xdp(interface_index(far_end), program, "native")

    namespaces.inside(namespace, pass_everything)
