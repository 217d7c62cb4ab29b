"""The node's network in real namespaces: made, fail-closed, kept, and put back.

subscriber           node                         internet
  sub0 ──────────── jet0   up0 ──────────────────── net0
10.64.0.2       10.64.0.1  198.51.100.2     198.51.100.1    192.0.2.10 on lo
fd64::2           fd64::1  2001:db8:1::2   2001:db8:1::1    2001:db8:2::10 on lo
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyroute2
import pytest

from jetplane import network
from jetplane.config import Config, parse
from jetplane.dataplane.node import DataPlane
from jetplane.errors import KernelError
from jetplane.journal import Added, Changed, Journal, Link, Rule, Sysctl
from jetplane.lab import links, namespaces
from jetplane.lab.links import End
from jetplane.lab.waiting import wait_until
from jetplane.model import InnerAddress
from jetplane.network import features, sysctl
from jetplane.plan import Entry, SetEntry
from tests.netns import snapshot

T = TypeVar("T")

ROUTED = ("203.0.113.7", "2001:db8:7::7")
ON_LINK = ("198.51.100.50", "2001:db8:1::50")
INNER = ("10.64.0.2", "fd64::2")
SITES = ("192.0.2.10", "2001:db8:2::10")
OWN = ("198.51.100.2", "2001:db8:1::2")
TUNNEL_OWN = ("10.64.0.1", "fd64::1")

UNCHANGED: tuple[str, ...] = ()


@dataclass
class World:
    """Three namespaces in a row, and the run directory of the node in the middle."""

    node: str
    subscriber: str
    internet: str
    directory: Path
    config: Config = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.configure()

    def configure(
        self, *, ipv4: tuple[str, ...] = ROUTED[:1], ipv6: tuple[str, ...] = ROUTED[1:], **changes: Any
    ) -> Config:
        tree = {
            "run_directory": str(self.directory),
            "transport": "veth",
            "uplink": {"interface": "up0"},
            "exit": {"ipv4": list(ipv4), "ipv6": list(ipv6), "routed": True},
            "tunnel": [
                {
                    "name": "jet0",
                    "listen_port": 51820,
                    "private_key_file": "nowhere",
                    "addresses": ["10.64.0.1/16", "fd64::1/64"],
                }
            ],
            "peers": {"path": "nowhere", "max": 64},
            "nat": {"max_bindings": 4096, "max_remotes": 4096},
            **changes,
        }
        return parse(tree, self.directory / "jetplane.toml")

    def journal(self) -> Journal:
        return Journal(self.directory / "journal.json")

    def inside(self, work: Callable[[], T]) -> T:
        return namespaces.inside(self.node, work)

    def ensure(self, config: Config | None = None) -> tuple[str, ...]:
        return self.inside(lambda: network.ensure(config or self.config, self.journal()))

    def restore(self) -> tuple[str, ...]:
        return self.inside(lambda: network.restore(self.journal()))

    def sysctl(self, name: str) -> str | None:
        return self.inside(lambda: sysctl.read(name))

    def run(self, namespace: str, *arguments: str) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", namespace, *arguments], capture_output=True, text=True, check=False, timeout=30
        )
        return done.stdout + done.stderr

    def pings(self, namespace: str, address: str, *options: str) -> bool:
        return " 0% packet loss" in self.run(namespace, "ping", "-c", "1", "-W", "1", *options, address)

    def be_a_plain_router(self) -> None:
        links.set_up(End(self.node, "jet0", ("10.64.0.1/16", "fd64::1/64")))
        namespaces.write_sysctls(self.node, {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})


@contextlib.contextmanager
def build(unique: Callable[[str], str], directory: Path) -> Iterator[World]:
    names = [unique(letter) for letter in "nsi"]
    node, subscriber, internet = names
    try:
        for name in names:
            namespaces.create(name)
            # Fresh IPv6 addresses are usable at once.
            namespaces.write_sysctls(name, {"ipv6/conf/default/accept_dad": 0, "ipv6/conf/default/dad_transmits": 0})
        links.pair(End(node, "jet0"), End(subscriber, "sub0", ("10.64.0.2/16", "fd64::2/64")))
        links.pair(
            End(node, "up0", ("198.51.100.2/24", "2001:db8:1::2/64")),
            End(internet, "net0", ("198.51.100.1/24", "2001:db8:1::1/64")),
        )
        links.set_up(End(internet, "lo", ("192.0.2.10/32", "2001:db8:2::10/128")))
        links.add_routes(node, [("0.0.0.0/0", "198.51.100.1", "up0"), ("::/0", "2001:db8:1::1", "up0")])
        links.add_routes(subscriber, [("0.0.0.0/0", "10.64.0.1", "sub0"), ("::/0", "fd64::1", "sub0")])
        links.add_routes(internet, [(f"{ROUTED[0]}/32", OWN[0], "net0"), (f"{ROUTED[1]}/128", OWN[1], "net0")])
        # What a careful neighbour would not have, so that only the node decides what passes.
        links.add_routes(internet, [("10.64.0.0/16", OWN[0], "net0"), ("fd64::/64", OWN[1], "net0")])
        snapshot.wait_for_links(node, "jet0", "up0")
        yield World(node, subscriber, internet, directory)
    finally:
        for name in names:
            namespaces.remove(name)


@pytest.fixture
def world(root: None, unique: Callable[[str], str], tmp_path: Path) -> Iterator[World]:
    with build(unique, tmp_path) as built:
        yield built


@dataclass
class Served:
    """A world with the real programs, and exit addresses of every kind; the subscriber is peer 0."""

    world: World
    plane: DataPlane

    def leave_by(self, kind: int) -> None:
        """Give the subscriber the exit addresses of this kind."""
        addresses = tuple(sorted(map(InnerAddress.parse, INNER)))
        tunnel = self.world.inside(lambda: network.interface_index("jet0"))
        entry = Entry(addresses, tunnel, (kind, len(KINDS) + kind))
        self.world.inside(lambda: self.plane.apply([SetEntry(0, entry)]))


KINDS = {"routed": ROUTED, "on the link": ON_LINK, "the node's own": OWN}


@pytest.fixture(scope="module")
def served(root: None, unique: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with build(unique, tmp_path_factory.mktemp("served")) as world:
        world.config = world.configure(
            ipv4=tuple(v4 for v4, _ in KINDS.values()), ipv6=tuple(v6 for _, v6 in KINDS.values())
        )
        world.ensure()
        plane = DataPlane(world.config)
        try:
            world.inside(plane.ensure)
            world.inside(lambda: plane.set_own_addresses(network.uplink_addresses(world.config)))
            made = Served(world, plane)
            made.leave_by(0)
            yield made
        finally:
            world.inside(plane.detach)


def test_what_was_changed_is_changed_once_and_put_back_completely(world: World) -> None:
    before = snapshot.take(world.node)
    assert world.ensure()
    assert snapshot.take(world.node) != before
    assert world.ensure() == UNCHANGED
    records = world.journal().records()
    undone = world.restore()
    assert [str(record.what) in line for record, line in zip(reversed(records), undone, strict=True)] == [True] * len(
        records
    ), "the latest first"
    assert snapshot.compare(before, snapshot.take(world.node)) == []
    assert world.restore() == UNCHANGED
    assert not (world.directory / "journal.json").exists()


@pytest.mark.native
def test_on_link_and_own_exit_addresses_are_put_back_completely_too(world: World) -> None:
    before = snapshot.take(world.node)
    config = world.configure(ipv4=(ON_LINK[0], OWN[0]), ipv6=(ON_LINK[1],))
    assert any("proxy" in line for line in world.ensure(config))
    assert world.ensure(config) == UNCHANGED
    world.restore()
    assert snapshot.compare(before, snapshot.take(world.node)) == []


def test_the_tunnel_gets_its_addresses_and_mtu_and_comes_up(world: World) -> None:
    world.run(world.node, "ip", "link", "set", "jet0", "down")
    world.ensure()
    said = world.run(world.node, "ip", "addr", "show", "dev", "jet0")
    assert "mtu 1420" in said and "UP" in said
    assert "inet 10.64.0.1/16" in said and "inet6 fd64::1/64" in said
    assert "tentative" not in said.split("fd64::1/64")[1].splitlines()[0]
    world.restore()
    assert "UP" not in world.run(world.node, "ip", "link", "show", "dev", "jet0").split(">")[0]


BOTH = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


@BOTH
def test_the_rules_leave_the_nodes_own_traffic_alone(world: World, family: int) -> None:
    world.ensure()
    assert world.pings(world.subscriber, TUNNEL_OWN[family]) and world.pings(world.node, INNER[family])
    assert world.pings(world.node, SITES[family]) and world.pings(world.internet, OWN[family])


@BOTH
def test_without_programs_nothing_passes_between_subscribers_and_the_internet(world: World, family: int) -> None:
    world.be_a_plain_router()
    _wait_until_it_arrives(world.subscriber, world.internet, SITES[family])
    _wait_until_it_arrives(world.internet, world.subscriber, INNER[family])
    world.ensure()
    assert not _arrives(world.subscriber, world.internet, SITES[family])
    assert not _arrives(world.internet, world.subscriber, INNER[family])


@BOTH
def test_nothing_is_forwarded_between_another_interface_and_subscribers_or_from_the_uplink_to_it(
    world: World, other: str, family: int
) -> None:
    world.be_a_plain_router()
    address = ("10.9.0.2", "fd09::2")[family]
    _wait_until_it_arrives(other, world.subscriber, INNER[family])
    _wait_until_it_arrives(world.internet, other, address)
    world.ensure()
    assert not _arrives(other, world.subscriber, INNER[family])
    assert not _arrives(world.internet, other, address)
    assert _arrives(world.node, other, address), "the node itself uses all its interfaces"


@pytest.fixture
def other(world: World, unique: Callable[[str], str]) -> Iterator[str]:
    """A namespace on another interface of the node, which it has for a router."""
    name = unique("o")
    namespaces.create(name)
    try:
        links.pair(
            End(world.node, "mgmt0", ("10.9.0.1/24", "fd09::1/64")), End(name, "eth0", ("10.9.0.2/24", "fd09::2/64"))
        )
        links.add_routes(name, [("0.0.0.0/0", "10.9.0.1", "eth0"), ("::/0", "fd09::1", "eth0")])
        links.add_routes(world.internet, [("10.9.0.0/24", OWN[0], "net0"), ("fd09::/64", OWN[1], "net0")])
        yield name
    finally:
        namespaces.remove(name)


def _wait_until_it_arrives(sender: str, receiver: str, address: str) -> None:
    """As it must while the node is a plain router; a fresh link takes a second for IPv6."""
    wait_until(f"a datagram from {sender}", lambda: _arrives(sender, receiver, address))


def _arrives(sender: str, receiver: str, address: str) -> bool:
    """Whether one of a few datagrams comes through; only the way there counts."""
    kind = _family(address)
    with namespaces.inside(receiver, lambda: _udp(kind, address)) as there:
        there.settimeout(0.1)
        with namespaces.inside(sender, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as here:
            for _ in range(5):
                here.sendto(b"x", there.getsockname()[:2])
                with contextlib.suppress(TimeoutError):
                    return bool(there.recv(8))
    return False


@BOTH
def test_the_stack_is_silent_about_exit_addresses(world: World, family: int) -> None:
    world.ensure()
    said = world.run(world.internet, "ping", "-c", "2", "-i", "0.2", "-W", "1", ROUTED[family])
    assert "100% packet loss" in said and "From" not in said
    kind = socket.AF_INET6 if family else socket.AF_INET
    with namespaces.inside(world.node, lambda: _udp(kind, OWN[family])) as own, pytest.raises(OSError, match="Invalid"):
        own.sendto(b"x", (ROUTED[family], 9))  # nor does the node itself send there, round by the router


def _set_rp_filter(world: World, mode: int) -> None:
    for name in ("all", "default", "jet0", "up0"):
        namespaces.write_sysctls(world.node, {f"ipv4/conf/{name}/rp_filter": mode})


def test_a_spent_ttl_is_answered_whatever_rp_filter_says(served: Served) -> None:
    world = served.world
    for mode in (0, 1, 2):
        _set_rp_filter(world, mode)
        for site, own in zip(SITES, TUNNEL_OWN, strict=True):
            said = world.run(world.subscriber, "ping", "-c", "1", "-W", "2", "-t", "1", site)
            assert f"From {own}" in said and "exceeded" in said


@pytest.mark.parametrize("kind", KINDS)
def test_subscribers_reach_sites_by_every_kind_of_exit_address(served: Served, kind: str) -> None:
    world = served.world
    served.leave_by(list(KINDS).index(kind))
    for mode in (0, 1):
        _set_rp_filter(world, mode)
        for site, address in zip(SITES, KINDS[kind], strict=True):
            with (
                namespaces.inside(world.internet, lambda site=site: _udp(_family(site), site)) as there,
                namespaces.inside(
                    world.subscriber, lambda site=site: socket.socket(_family(site), socket.SOCK_DGRAM)
                ) as here,
            ):
                here.settimeout(5)
                here.sendto(b"hello", there.getsockname()[:2])
                _, back = there.recvfrom(64)
                assert back[0] == address
                there.sendto(b"hello yourself", back)
                assert here.recv(64) == b"hello yourself"
    assert world.ensure() == UNCHANGED


def test_a_packet_too_big_for_the_tunnel_is_answered_from_the_exit_side(served: Served) -> None:
    world = served.world
    served.leave_by(0)
    _set_rp_filter(world, 1)
    for number, kind in enumerate((socket.AF_INET, socket.AF_INET6)):
        site = namespaces.inside(world.internet, lambda kind=kind, n=number: _udp(kind, SITES[n]))
        here = namespaces.inside(world.subscriber, lambda kind=kind, n=number: _udp(kind, INNER[n]))
        with site, here:
            here.sendto(b"hello", site.getsockname()[:2])
            _, (exit_address, port, *_) = site.recvfrom(64)
            assert exit_address == ROUTED[number]
            site.setsockopt(*((socket.IPPROTO_IPV6, 23, 2) if number else (socket.IPPROTO_IP, 10, 2)))  # DF
            site.connect((exit_address, port))

            def has_learnt(site: socket.socket = site) -> bool:
                try:
                    site.send(bytes(1450))
                except OSError as error:
                    return error.errno == errno.EMSGSIZE
                return False

            wait_until("the site to learn how much fits", has_learnt)


def _udp(kind: socket.AddressFamily, address: str) -> socket.socket:
    made = socket.socket(kind, socket.SOCK_DGRAM)
    made.settimeout(5)
    made.bind((address, 0))
    return made


def test_neighbours_find_on_link_exit_addresses_by_unicast_questions_too_and_no_others(served: Served) -> None:
    world = served.world

    def look(address: str) -> str:
        return world.run(world.internet, "ip", "neigh", "show", address)

    def ask(address: str) -> str:
        kind = _family(address)
        with namespaces.inside(world.internet, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as here:
            here.sendto(b"x", (address, 9))
        return look(address)

    for address in ON_LINK:
        wait_until(f"{address} to be found", lambda address=address: "lladdr" in ask(address))
        # An entry in doubt is asked for by unicast, and given up after three questions without an answer.
        world.run(world.internet, "ip", "neigh", "change", address, "dev", "net0", "nud", "probe")
        wait_until(f"{address} to be confirmed", lambda address=address: "REACHABLE" in look(address))
    for stranger in ("198.51.100.51", "2001:db8:1::51"):
        ask(stranger)
        wait_until(f"{stranger} to be given up", lambda stranger=stranger: "FAILED" in look(stranger))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.mark.native
def test_an_own_exit_address_keeps_the_nodes_connections_out_of_the_subscribers_ports(world: World) -> None:
    before = world.sysctl("net/ipv4/ip_local_port_range")
    world.ensure(world.configure(ipv4=OWN[:1], ipv6=OWN[1:]))
    assert world.sysctl("net/ipv4/ip_local_port_range") == "61440 65535"
    assert "blackhole" not in world.run(world.node, "ip", "route", "show", "table", "main")
    world.ensure()
    assert world.sysctl("net/ipv4/ip_local_port_range") == before, "the next configuration does not need it"


@pytest.mark.native
def test_a_changed_configuration_puts_back_what_it_no_longer_needs(world: World) -> None:
    untouched = snapshot.take(world.node)
    world.ensure(world.configure(ipv4=("203.0.113.7", "203.0.113.8", ON_LINK[0]), ipv6=ON_LINK[1:]))
    smaller = world.configure(ipv4=("203.0.113.8",), ipv6=())
    assert any("203.0.113.7" in line and line.startswith("removed") for line in world.ensure(smaller))
    routes = world.run(world.node, "ip", "route", "show", "table", "main")
    assert "blackhole 203.0.113.8" in routes and "203.0.113.7" not in routes
    assert world.run(world.node, "ip", "neigh", "show", "proxy") == ""
    assert world.ensure(smaller) == UNCHANGED
    world.restore()
    assert snapshot.compare(untouched, snapshot.take(world.node)) == []


@pytest.mark.native
def test_a_value_set_twice_goes_back_to_the_first_one(world: World) -> None:
    world.ensure()
    tunnel = {"name": "jet0", "listen_port": 1, "private_key_file": "x", "addresses": ["10.64.0.1/16"], "mtu": 1300}
    world.ensure(world.configure(tunnel=[tunnel]))
    assert "mtu 1300" in world.run(world.node, "ip", "link", "show", "jet0")
    world.restore()
    assert "mtu 1500" in world.run(world.node, "ip", "link", "show", "jet0")


@pytest.mark.native
def test_what_somebody_removed_is_made_again(world: World) -> None:
    world.ensure()
    world.run(world.node, "ip", "rule", "del", "pref", "62")
    world.run(world.node, "ip", "addr", "flush", "dev", "jet0")
    again = world.ensure()
    assert any("62" in line for line in again) and any("10.64.0.1/16" in line for line in again)
    assert world.ensure() == UNCHANGED


@pytest.mark.native
def test_what_was_there_before_stays_there(world: World) -> None:
    namespaces.write_sysctls(world.node, {"ipv4/conf/up0/forwarding": 1, "ipv6/conf/all/forwarding": 1})
    world.run(world.node, "ip", "addr", "add", "10.64.0.1/16", "dev", "jet0")
    before = snapshot.take(world.node)
    world.ensure()
    world.restore()
    assert snapshot.compare(before, snapshot.take(world.node)) == []


@pytest.mark.native
def test_a_setting_that_somebody_else_changed_since_is_left_alone(world: World) -> None:
    world.ensure()
    namespaces.write_sysctls(world.node, {"ipv4/conf/up0/accept_redirects": 1, "ipv4/conf/jet0/src_valid_mark": 2})
    said = world.restore()
    assert [line for line in said if line.startswith("left alone")] == [
        "left alone: sysctl net/ipv4/conf/jet0/src_valid_mark is 2 by now, which is not what jetplane had set (1)"
    ]
    assert world.sysctl("net/ipv4/conf/jet0/src_valid_mark") == "2"
    assert world.journal().is_empty()


@pytest.mark.native
def test_a_tunnel_that_is_gone_needs_nothing_put_back(world: World) -> None:
    world.ensure(world.configure(ipv4=ON_LINK[:1]))
    world.run(world.node, "ip", "link", "del", "jet0")
    assert not [line for line in world.restore() if "not put back" in line]
    assert world.journal().is_empty()


@pytest.mark.native
def test_a_crash_between_writing_down_and_changing_is_harmless(world: World) -> None:
    journal = world.journal()
    journal.add(Changed(Sysctl("net/ipv4/conf/up0/forwarding"), "0", "1"))
    journal.add(Added(Rule(4, 62, interface="jet0")))
    before = snapshot.take(world.node)
    assert world.restore() == UNCHANGED
    assert snapshot.compare(before, snapshot.take(world.node)) == []


@pytest.mark.native
def test_what_cannot_be_put_back_is_said_and_kept(world: World) -> None:
    journal = world.journal()
    journal.add(Changed(Link("jet0", "mtu"), "1", "1500"))
    said = world.restore()
    assert len(said) == 1 and said[0].startswith("not put back: mtu of jet0: setting mtu of jet0 to 1")
    assert [record.what for record in world.journal().records()] == [Link("jet0", "mtu")]


@pytest.mark.native
def test_an_interface_that_is_missing_is_named_and_nothing_has_changed(world: World) -> None:
    before = snapshot.take(world.node)
    with pytest.raises(KernelError, match="interface eth9: No such device"):
        world.ensure(world.configure(uplink={"interface": "eth9"}))
    assert snapshot.compare(before, snapshot.take(world.node)) == []
    assert world.journal().is_empty()


def test_udp_packets_of_one_flow_are_handled_in_one_go(world: World) -> None:
    world.ensure()
    for name in ("up0", "jet0"):
        assert world.inside(lambda name=name: features.read_all(name))["rx-udp-gro-forwarding"].on
    world.restore()
    assert not world.inside(lambda: features.read_all("up0"))["rx-udp-gro-forwarding"].on


def test_a_default_route_from_a_router_advertisement_survives(world: World) -> None:
    world.run(world.node, "ip", "-6", "route", "del", "default")
    world.run(world.node, "ip", "link", "add", "mgmt0", "type", "veth", "peer", "name", "far0")
    world.run(world.node, "ip", "link", "set", "mgmt0", "up")
    _advertise(world)
    assert world.sysctl("net/ipv6/conf/up0/accept_ra") == "1"
    others = ("all", "default", "lo", "mgmt0")
    before = {name: world.sysctl(f"net/ipv6/conf/{name}/accept_ra") for name in others}
    world.ensure()
    assert "proto ra" in world.run(world.node, "ip", "-6", "route", "show", "default")
    assert world.sysctl("net/ipv6/conf/up0/accept_ra") == "2"
    assert world.sysctl("net/ipv6/conf/all/forwarding") == "1"
    assert world.sysctl("net/ipv6/conf/up0/forwarding") == "1"
    assert world.sysctl("net/ipv6/conf/mgmt0/forwarding") == "0", "other interfaces stay as they are"
    assert {name: world.sysctl(f"net/ipv6/conf/{name}/accept_ra") for name in others} == before
    world.run(world.node, "ip", "-6", "route", "flush", "proto", "ra")
    _advertise(world)  # and is still heard
    world.restore()
    assert "proto ra" in world.run(world.node, "ip", "-6", "route", "show", "default")
    assert world.sysctl("net/ipv6/conf/up0/accept_ra") == "1"


def _advertise(world: World) -> None:
    """Send router advertisements (RFC 4861, section 4.2) until the node has a default route from one."""

    def send() -> None:
        with contextlib.closing(socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)) as raw:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            raw.sendto(
                struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, socket.if_nametoindex("net0"))
            )

    def heard() -> bool:
        with contextlib.suppress(OSError):  # its link-local address is not ready yet
            namespaces.inside(world.internet, send)
        return "proto ra" in world.run(world.node, "ip", "-6", "route", "show", "default")

    wait_until("a router advertisement to be heard", heard)


@pytest.mark.native
def test_the_node_is_reached_at_the_addresses_of_its_uplink_and_loopback(world: World) -> None:
    links.set_up(End(world.node, "lo", ("192.0.2.99/32",)))
    world.ensure()
    found = world.inside(lambda: network.uplink_addresses(world.config))
    texts = {InnerAddress(address).text().partition("/")[0] for address in found}
    assert {text for text in texts if not text.startswith("fe80")} == {*OWN, "192.0.2.99"}
    assert all(len(address) == 16 for address in found)


@pytest.mark.native
def test_indices_are_those_of_this_namespace(world: World) -> None:
    with pyroute2.IPRoute(netns=world.node) as route:
        [expected] = route.link_lookup(ifname="jet0")
    assert world.inside(lambda: network.interface_index("jet0")) == expected
    with pytest.raises(KernelError, match="interface nothing0"):
        world.inside(lambda: network.interface_index("nothing0"))
