"""A whole node, as its subscribers and its operator meet it."""

from __future__ import annotations

import errno
import itertools
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pyroute2
import pytest

from jetplane import config
from jetplane.dataplane.node import DataPlane
from jetplane.lab import capture, entry, namespaces, servers, snapshot, traffic
from jetplane.lab.addresses import (
    NODE_IPV4,
    NODE_IPV6,
    SITES_IPV4,
    SITES_IPV6,
    TO_NODE,
    TUNNEL_MTU,
    UPLINK,
)
from jetplane.lab.node import Node
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience, slowness, wait_until
from jetplane.node import Node as Work
from jetplane.node import take_down
from tests.bpf.guard_world import used_ports
from tests.netns import nat_place

pytestmark = pytest.mark.timeout(600)

FAMILIES = (4, 6)
BURST = 23


def visit(lab: Lab, subscriber: int, family: int, site: int = 0) -> traffic.Visit:
    sites = SITES_IPV4 if family == 4 else SITES_IPV6
    return traffic.Visit(lab.name, lab.plan.subscribers[subscriber].namespace, sites[site])


def _own(lab: Lab) -> tuple[str, ...]:
    """Every address the node may send from."""
    return *lab.plan.exit_ipv4, *lab.plan.exit_ipv6, str(NODE_IPV4.ip), str(NODE_IPV6.ip)


@contextmanager
def nothing_may_leak(lab: Lab) -> Iterator[None]:
    """Watch the wire between node and internet meanwhile."""
    with capture.LeakWatch(lab.plan.internet, TO_NODE, _own(lab)) as watch:
        yield
        assert watch.leaks() == []
        assert watch.lost() == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("subscriber", [0, 1])
def test_a_file_arrives_whole(lab: Lab, download_size: int, subscriber: int, family: int) -> None:
    with nothing_may_leak(lab):
        done = traffic.download(visit(lab, subscriber, family), download_size, lab.directory)
    assert done.whole


# Bytes after an ICMP or UDP header of 8. WireGuard pads to 16, but not beyond the tunnel's MTU: the last sizes make
# full packets, one padded and one not.
SIZES = {4: (0, 1, 56, 1000, 1380, 1391, 1392), 6: (0, 1, 56, 1000, 1360, 1371, 1372)}
if slowness() > 5:
    SIZES = {family: sizes[-2:] for family, sizes in SIZES.items()}
SIZED = [(family, size) for family, sizes in SIZES.items() for size in sizes]


@pytest.mark.parametrize(("family", "size"), SIZED)
def test_every_ping_is_answered(lab: Lab, family: int, size: int) -> None:
    assert traffic.ping(visit(lab, 0, family), 5, size=size) == 5


@pytest.mark.parametrize(("family", "size"), [(family, size) for family, size in SIZED if size])
def test_every_datagram_comes_back(lab: Lab, family: int, size: int) -> None:
    assert traffic.udp_echo(visit(lab, 1, family), BURST, size=size) == BURST


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [(), ("-I",), ("-T", "-p", "80")], ids=["udp", "icmp", "tcp"])
def test_a_traceroute_shows_the_node_and_the_site(lab: Lab, family: int, options: tuple[str, ...]) -> None:
    tunnel = lab.plan.tunnels[0]
    here = str(tunnel.ipv4.ip if family == 4 else tunnel.ipv6.ip)
    site = visit(lab, 0, family)
    with nothing_may_leak(lab):
        assert traffic.trace(site, *options) == [here, site.site]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_site_learns_how_much_the_tunnel_carries(lab: Lab, family: int) -> None:
    here = visit(lab, 0, family)
    with nat_place.talking(here.namespace, lab.plan.internet, here.site) as (client, site):
        nat_place.forbid_fragments(site, family)
        headers = 28 if family == 4 else 48
        site.send(bytes(1500 - headers))
        wait_until("the error", lambda: site.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EMSGSIZE)
        assert nat_place.path_mtu(site, family) == TUNNEL_MTU
        site.send(bytes(TUNNEL_MTU - headers))
        assert len(client.recv(65536)) == TUNNEL_MTU - headers


@pytest.mark.parametrize("family", FAMILIES)
def test_the_node_answers_pings_to_its_tunnel_address_only(lab: Lab, family: int) -> None:
    tunnel = lab.plan.tunnels[0]
    here = str(tunnel.ipv4.ip if family == 4 else tunnel.ipv6.ip)
    node = str(NODE_IPV4.ip if family == 4 else NODE_IPV6.ip)
    other = lab.plan.subscribers[1]
    neighbour = str(other.inner_ipv4 if family == 4 else other.inner_ipv6)
    namespace = lab.plan.subscribers[0].namespace
    assert traffic.ping(traffic.Visit(lab.name, namespace, here), 3) == 3
    assert traffic.ping(traffic.Visit(lab.name, namespace, neighbour), 2, wait=1) == 0, "another subscriber answered"
    if family == 4:  # the client's own route to the node leads past the tunnel
        assert traffic.ping(traffic.Visit(lab.name, namespace, node), 3) == 3


@pytest.mark.native
def test_both_subscribers_use_the_same_port_at_once(lab: Lab) -> None:
    """Two clients with one local port: neither loses a datagram, and the site sees two ports."""
    clients = [_bound(lab, number, 40000) for number in (0, 1)]
    try:
        answers = []
        for number, client in enumerate(clients):
            client.connect((SITES_IPV4[0], servers.ECHO_PORT))
            client.send(bytes([number]) * 32)
            answers.append(client.recv(100))
        assert answers == [bytes([number]) * 32 for number in (0, 1)]
    finally:
        for client in clients:
            client.close()


def _bound(lab: Lab, subscriber: int, port: int) -> socket.socket:
    def make() -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.bind(("", port))
        client.settimeout(patience(5))
        return client

    return namespaces.inside(lab.plan.subscribers[subscriber].namespace, make)


def test_sites_only_ever_saw_exit_addresses(lab: Lab) -> None:
    traffic.page(visit(lab, 0, 4), "whoami")
    traffic.page(visit(lab, 0, 6), "whoami")
    sources = {row["source"] for row in servers.ask(lab.visitors)}
    assert sources <= {*lab.plan.exit_ipv4, *lab.plan.exit_ipv6}
    assert len(sources) >= 2


def test_status_says_which_wireguard_it_is(lab: Lab, wireguard_kind: str) -> None:
    assert lab.node.report().status.wireguard == wireguard_kind
    assert lab.wireguard == wireguard_kind


# What is taken away by hand → how. Whatever it is, nothing untranslated may leave, and the node must mend itself.
def _remove_filter(lab: Lab, interface: str, parent: int) -> None:
    def work() -> None:
        with pyroute2.IPRoute() as route:
            index = route.link_lookup(ifname=interface)[0]
            route.tc("del-filter", index=index, parent=parent)

    namespaces.inside(lab.plan.node, work)


_INGRESS, _EGRESS = 0xFFFFFFF2, 0xFFFFFFF3


@dataclass(frozen=True)
class Damage:
    """Filters to remove, by interface and hook; `tunnel` stands for the node's tunnel."""

    name: str
    removed: tuple[tuple[str, int], ...]


DAMAGES = (
    Damage("translation on the tunnel", (("tunnel", _INGRESS),)),
    Damage("leak guard", ((UPLINK, _EGRESS),)),
    Damage("both", (("tunnel", _INGRESS), (UPLINK, _EGRESS))),
    Damage("translation of answers", ((UPLINK, _INGRESS),)),
    Damage("everything in traffic control", (("tunnel", _INGRESS), (UPLINK, _INGRESS), (UPLINK, _EGRESS))),
)


@contextmanager
def frozen(lab: Lab) -> Iterator[None]:
    """Nobody mends the node meanwhile; afterwards it must mend itself."""
    try:
        with lab.node.frozen():
            yield
    finally:
        lab.node.reload()
        wait_until("the node to mend itself", lambda: lab.node.report().healthy, seconds=30)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damage, marks=() if damage.name.startswith("everything") else pytest.mark.native)
        for damage in DAMAGES
    ],
    ids=lambda damage: damage.name,
)
def test_nothing_leaks_when_a_program_is_missing(lab: Lab, damage: Damage) -> None:
    with frozen(lab):
        with nothing_may_leak(lab):
            for interface, parent in damage.removed:
                _remove_filter(lab, lab.plan.tunnels[0].name if interface == "tunnel" else interface, parent)
            for family in FAMILIES:
                _shout(lab, family)
        assert not lab.node.report().healthy
    for family in FAMILIES:
        assert traffic.udp_echo(visit(lab, 0, family), 3) == 3


@pytest.mark.native
def test_the_watch_would_see_it_if_the_fail_closed_rules_were_gone_too(lab: Lab) -> None:
    """The control of the test above: only with translation, leak guard and rules gone does something leak."""
    with frozen(lab), capture.LeakWatch(lab.plan.internet, TO_NODE, _own(lab)) as watch:
        for interface, parent in ((lab.plan.tunnels[0].name, _INGRESS), (UPLINK, _EGRESS)):
            _remove_filter(lab, interface, parent)
        namespaces.inside(lab.plan.node, _flush_rules)
        for family in FAMILIES:
            _shout(lab, family)
        inner = lab.plan.subscribers[0]
        assert {f"source {inner.inner_ipv4}", f"source {inner.inner_ipv6}"} <= set(watch.leaks())


def _flush_rules() -> None:
    """Leave the kernel's own three tables only."""
    with pyroute2.IPRoute() as route:
        for family in (socket.AF_INET, socket.AF_INET6):
            route.flush_rules(family=family, priority=lambda priority: 0 < (priority or 0) < 32766)


def _shout(lab: Lab, family: int) -> None:
    """Send from the subscriber whatever it can send, without caring for answers."""
    there = visit(lab, 0, family)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with namespaces.inside(there.namespace, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as client:
        for number in range(BURST):
            client.sendto(b"x" * 100 * (1 + number % 12), (there.site, 1024 + number))
    with namespaces.inside(there.namespace, lambda: socket.socket(kind, socket.SOCK_STREAM)) as client:
        client.setblocking(False)
        client.connect_ex((there.site, servers.HTTP_PORT))
    traffic.ping(there, 2, wait=1)  # also the time in which a leak would come out


def test_traffic_goes_on_without_the_controller_and_with_the_next_one(lab: Lab) -> None:
    with traffic.Stream(visit(lab, 0, 4)) as one, traffic.Stream(visit(lab, 1, 6)) as other:
        for stream in (one, other):
            stream.wait_for_more(100_000, seconds=30)
        began = time.monotonic()
        lab.node.kill()
        assert traffic.udp_echo(visit(lab, 0, 6), BURST) == BURST, "a new flow"
        programs = snapshot.program_ids(lab.plan.node)
        lab.node.start()
        for stream in (one, other):
            stream.wait_for_more(100_000, seconds=30)
        assert max(one.longest_gap(began), other.longest_gap(began)) < 0.5 * slowness()
    assert snapshot.program_ids(lab.plan.node) == programs


@pytest.mark.native
def test_sigterm_stops_the_controller_and_leaves_the_traffic(lab: Lab) -> None:
    assert lab.node.stop() == 0
    try:
        assert not lab.node.report().running
        assert traffic.udp_echo(visit(lab, 0, 4), BURST) == BURST
        assert traffic.udp_echo(visit(lab, 0, 6), BURST) == BURST
    finally:
        lab.node.start()
    assert lab.node.report().healthy


@pytest.mark.native  # the kernel's WireGuard: test_wireguard_traffic.py
def test_a_removed_peer_is_cut_off_and_an_added_one_comes_back(lab: Lab) -> None:
    key, subscriber = lab.public_keys[1], lab.plan.subscribers[1]
    with traffic.Stream(visit(lab, 1, 4)) as stream:
        stream.wait_for_more(100_000, seconds=30)
        assert lab.node.jetplane("peers", "remove", key).returncode == 0
        removed = time.monotonic()
        stream.wait_for_silence(min(slowness(), 3))
        assert stream.last_arrival - removed < 2 * slowness()
    addresses = (f"{subscriber.inner_ipv4}/32", f"{subscriber.inner_ipv6}/128")
    options = list(itertools.chain.from_iterable(("--allowed-ip", address) for address in addresses))
    assert lab.node.jetplane("peers", "add", key, *options).returncode == 0
    # The client's old session would try for 15 seconds more before it began a new one; a user connects again.
    again = ["wg", "setconf", subscriber.interface, f"{lab.directory}/{subscriber.interface}.conf"]
    assert namespaces.run(subscriber.namespace, again, lab=lab.name, timeout=patience(10)).returncode == 0
    wait_until("the peer", lambda: traffic.ping(visit(lab, 1, 4), 1, wait=1) == 1, seconds=60)
    assert traffic.udp_echo(visit(lab, 1, 6), BURST) == BURST


@pytest.mark.native  # the kernel's WireGuard: test_wireguard_sweep.py
def test_who_is_idle_is_forgotten_and_who_is_not_goes_on(lab: Lab) -> None:
    """A half-open handshake, within 30 s: an endpoint is known, and there was no handshake."""
    tunnel, streaming = lab.plan.tunnels[0].name, lab.public_keys[0]
    with traffic.Stream(visit(lab, 0, 4)) as stream:
        stream.wait_for_more(1, seconds=30)  # an emulated machine's earlier tests may have left it idle for long
        known = _endpoints(lab, tunnel)
        half_open = next(key for key, endpoint in known.items() if endpoint == "(none)" and key not in lab.public_keys)
        command = ["wg", "set", tunnel, "peer", half_open, "endpoint", "192.0.2.9:9"]
        assert namespaces.run(lab.plan.node, command, lab=lab.name, timeout=patience(10)).returncode == 0
        wait_until("the eviction", lambda: _endpoints(lab, tunnel)[half_open] == "(none)", seconds=30)
        stream.wait_for_more(100_000, seconds=30)
    assert _endpoints(lab, tunnel)[streaming] == known[streaming] != "(none)"


def _endpoints(lab: Lab, tunnel: str) -> dict[str, str]:
    done = namespaces.run(lab.plan.node, ["wg", "show", tunnel, "endpoints"], lab=lab.name, timeout=patience(10))
    lines = done.stdout.decode().splitlines()
    return {fields[0]: fields[1] for fields in map(str.split, lines)}


@pytest.mark.native
def test_a_bad_configuration_is_refused_and_the_old_one_stays(lab: Lab) -> None:
    before = lab.node.config.read_text()
    lab.node.config.write_text(before.replace('filtering = "address"', 'filtering = "open to everyone"'))
    try:
        lab.node.reload()
        wait_until("the refusal", lambda: "nat.filtering" in lab.node.log.read_text(), seconds=30)
        assert traffic.udp_echo(visit(lab, 0, 4), BURST) == BURST
    finally:
        lab.node.config.write_text(before)
    reload(lab)


def reload(lab: Lab) -> None:
    """Reload and wait until the node says that it has, and that all is well."""

    def done() -> int:
        return lab.node.log.read_text().count("configuration reloaded")

    before = done()
    lab.node.reload()
    wait_until("the reload", lambda: done() > before and lab.node.report().healthy, seconds=60)


@pytest.mark.native
def test_each_tunnel_has_its_own_peers(lab: Lab) -> None:
    tunnels = lab.node.report().status.tunnels
    assert [(tunnel.wanted, tunnel.observed) for tunnel in tunnels] == [(51, 51)] * 2


@pytest.mark.native
def test_a_peer_keeps_one_exit_address_for_all_it_does(lab: Lab) -> None:
    """Paired pooling (RFC 4787, REQ-2)."""
    for subscriber, family in itertools.product((0, 1), FAMILIES):
        told = {traffic.page(visit(lab, subscriber, family, site), "whoami").split(b'"')[1] for site in (0, 1)}
        assert len(told) == 1
        assert told <= {address.encode() for address in lab.plan.exit_ipv4 + lab.plan.exit_ipv6}


@contextmanager
def without_looks(lab: Lab) -> Iterator[DataPlane]:
    """As if a flood at all closed ports took every look for a socket that the guard allows itself, and never ended."""
    plane = DataPlane(config.load(lab.node.config))

    def pay(until: int) -> None:
        words = dict(plane._map("local_ports").items())
        for word in words.values():
            word.paid_until = until
        plane._map("local_ports").update_many(words.items())

    namespaces.inside(lab.plan.node, lambda: pay(1 << 63))
    try:
        yield plane
    finally:
        pay(0)
        plane.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_node_itself_asks_is_answered_while_a_flood_takes_all_looks(lab: Lab, family: int) -> None:
    """Its ports are known by what it sends, and nobody else's are: a subscriber's packets pass the same way."""
    site = SITES_IPV4[0] if family == 4 else SITES_IPV6[0]
    node = str(NODE_IPV4.ip if family == 4 else NODE_IPV6.ip)
    with (
        without_looks(lab) as plane,
        namespaces.inside(lab.plan.internet, lambda: _listening(site)) as there,
        namespaces.inside(lab.plan.node, lambda: _listening(node)) as query,
        namespaces.inside(lab.plan.node, lambda: socket.socket(query.family, socket.SOCK_STREAM)) as connection,
    ):
        query.connect(there.getsockname())
        refused = plane.counters()["NOT_ALLOWED"]
        there.sendto(b"too early", query.getsockname())
        wait_until("its refusal", lambda: plane.counters()["NOT_ALLOWED"] > refused)
        ports = plane._map("local_ports")
        before = used_ports(ports)
        query.send(b"question")
        assert there.recv(100) == b"question"
        there.sendto(b"answer", query.getsockname())
        assert query.recv(100) == b"answer", "what came before the question was let in"
        connection.settimeout(patience(10))
        connection.connect((site, servers.ECHO_PORT))
        connection.sendall(b"x" * 100_000)
        connection.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: connection.recv(65536), b"")) == b"x" * 100_000
        assert traffic.udp_echo(visit(lab, 0, family), BURST) == BURST
        own = {(socket.IPPROTO_TCP, connection.getsockname()[1]), (socket.IPPROTO_UDP, query.getsockname()[1])}
        assert own <= used_ports(ports) <= before | own
        for _ in range(2):
            namespaces.inside(lab.plan.node, plane.forget_own_ports)
        assert (socket.IPPROTO_UDP, query.getsockname()[1]) not in used_ports(ports)


@contextmanager
def without_a_controller(node: Node) -> Iterator[None]:
    """A node as a controller brings it up, which itself takes a minute to start in an emulated machine."""
    settings = config.load(node.config)
    settings.run_directory.mkdir()
    try:
        namespaces.inside(node.namespace, Work(settings).bring_up)
        yield
    finally:
        namespaces.inside(node.namespace, lambda: take_down(settings))
        shutil.rmtree(settings.run_directory)


def test_an_entry_carries_a_subscriber_to_the_node(lab: Lab, download_size: int) -> None:
    """Both translations between families; test_relay.py has everything else, with two whole nodes."""
    with entry.multihop(lab, run=without_a_controller) as far:
        six, four = (far.visit(sites[0]) for sites in (SITES_IPV6, SITES_IPV4))
        for here, there in ((4, 6), (6, 4)):
            far.dial(here, there)
            wait_until("the tunnel through two nodes", lambda: traffic.ping(four, 1, wait=1) == 1)
            assert traffic.udp_echo(six, BURST, size=SIZES[6][-1]) == BURST
            at_entry = entry.ENTRY_IPV4 if there == 4 else entry.ENTRY_IPV6
            assert far.endpoint().rpartition(":")[0].strip("[]") == str(at_entry.ip)
        assert traffic.download(six, min(download_size, 4 << 20), lab.directory).whole


@pytest.mark.native
def test_a_reload_changes_what_it_must_and_keeps_every_flow(lab: Lab) -> None:
    """The last of this file: it leaves another filtering behind. The programs are compiled anew, the bindings stay."""
    stranger = SITES_IPV4[1]
    with (
        namespaces.inside(lab.plan.internet, lambda: _listening(SITES_IPV4[0])) as site,
        namespaces.inside(lab.plan.internet, lambda: _listening(stranger)) as other,
        namespaces.inside(visit(lab, 0, 4).namespace, lambda: _listening("")) as client,
        traffic.Stream(visit(lab, 0, 4)) as stream,
    ):
        client.sendto(b"hello", site.getsockname())
        exit_side = site.recvfrom(100)[1]

        other.sendto(b"from a stranger", exit_side)
        site.sendto(b"from the site", exit_side)
        assert client.recv(100) == b"from the site", "a stranger was let in"

        stream.wait_for_more(100_000, seconds=30)
        began = time.monotonic()
        text = lab.node.config.read_text()
        lab.node.config.write_text(text.replace('filtering = "address"', 'filtering = "endpoint-independent"'))
        reload(lab)
        stream.wait_for_more(100_000, seconds=30)
        assert stream.longest_gap(began) < 0.5 * slowness()

        client.settimeout(patience(0.2))

        def is_let_in() -> bool:
            """One datagram may be lost beside the stream."""
            other.sendto(b"from a stranger", exit_side)
            with suppress(TimeoutError):
                return client.recv(100) == b"from a stranger"
            return False

        wait_until("the stranger", is_let_in)


def _listening(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, 0))
    made.settimeout(patience(5))
    return made
