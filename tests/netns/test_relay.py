"""Multi-hop with everything real: subscriber → entry → exit → site, and neither node knows both ends."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from jetplane.dataplane import layout
from jetplane.dataplane.maps import Map
from jetplane.lab import entry, links, namespaces, topology, traffic
from jetplane.lab.addresses import (
    LISTEN_PORT,
    NODE_IPV4,
    NODE_IPV6,
    OUTER,
    SITES_IPV4,
    SITES_IPV6,
    TO_NODE,
    UPLINK,
    LabOptions,
)
from jetplane.lab.entry import MultiHop
from jetplane.lab.node import Node
from jetplane.lab.waiting import patience, wait_until
from jetplane.wireguard import search
from tests.netns import canaries
from tests.netns.nat_place import forget_paths, narrowed

pytestmark = pytest.mark.timeout(600)

PAIRS = [(here, there) for here in (4, 6) for there in (4, 6)]
ENTRY = {4: str(entry.ENTRY_IPV4.ip), 6: str(entry.ENTRY_IPV6.ip)}
NODE = {4: str(NODE_IPV4.ip), 6: str(NODE_IPV6.ip)}
INITIATION = b"\1\0\0\0" + bytes(144)
CIRCLE, SPIRAL = 51850, 51851
"""Where the entry and the node relay to each other; by the second, each under an address that it does not send from."""


def at(family: int, port: int, where: dict[int, str] = NODE) -> str:
    return f"[{where[6]}]:{port}" if family == 6 else f"{where[4]}:{port}"


def relay(port: int, to: str) -> str:
    """A line of relay.to."""
    return f'    {{ listen_port = {port}, exit = "{to}" }},\n'


@pytest.fixture(scope="module")
def multihop(root: None) -> Iterator[MultiHop]:
    with topology.lab(LabOptions()) as lab:
        sites = [f"{site}/{32 if family == 4 else 128}" for family, site in canaries.SITES.items()]
        links.set_up(links.End(lab.plan.internet, "lo", tuple(sites)))
        back = relay(CIRCLE, at(4, CIRCLE, ENTRY)) + relay(SPIRAL, at(6, SPIRAL, ENTRY))
        settings = lab.node.config
        settings.write_text(f"{settings.read_text()}\n[relay]\nto = [\n{back}]\n")
        entry.let_xdp_send(lab.plan.internet, TO_NODE)
        lab.start()
        with entry.multihop(lab, relay(CIRCLE, at(4, CIRCLE)) + relay(SPIRAL, at(4, SPIRAL))) as made:
            yield made


def reaches(multihop: MultiHop, site: str = SITES_IPV4[0]) -> bool:
    return traffic.ping(multihop.visit(site), 1, wait=1) == 1


def connect(multihop: MultiHop, here: int, there: int) -> None:
    multihop.dial(here, there)
    wait_until("the tunnel", lambda: reaches(multihop))


def handshake(multihop: MultiHop) -> str:
    """When the subscriber last made one."""
    return multihop.shown(multihop.namespace, multihop.interface, multihop.node_key, "latest-handshakes")


def counted(node: Node, reason: str) -> int:
    return int(node.report().counters[reason])


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_a_subscriber_reaches_sites_through_two_nodes(
    multihop: MultiHop, tmp_path: Path, download_size: int, here: int, there: int
) -> None:
    connect(multihop, here, there)
    assert traffic.download(multihop.visit(SITES_IPV6[0]), min(download_size, 4 << 20), tmp_path).whole
    assert traffic.udp_echo(multihop.visit(SITES_IPV4[0]), 20, size=1392) == 20
    assert counted(multihop.entry, "RELAYED") > 0
    assert multihop.endpoint().rpartition(":")[0].strip("[]") == ENTRY[there]


def test_a_fresh_handshake_changes_nothing_for_what_is_under_way(multihop: MultiHop) -> None:
    """To the entry and to the exit node it looks as every re-key: an initiation from where the session is, new indices.

    A client re-keys after 120 s; here it forgets its keys, so that it needs to at once, and the test need not wait.
    """
    connect(multihop, 4, 6)
    before = multihop.endpoint()
    with traffic.Stream(multihop.visit(SITES_IPV4[0])) as stream:
        stream.wait_for_more(100_000)
        multihop.dial(4, 6)
        wait_until("a new handshake", lambda: handshake(multihop) != "0")
        stream.wait_for_more(500_000)
    assert multihop.endpoint() == before, "one session of the entry, through every handshake"


def test_a_subscriber_whose_port_changes_goes_on(multihop: MultiHop) -> None:
    connect(multihop, 4, 6)
    made, before = handshake(multihop), multihop.endpoint()
    with traffic.Stream(multihop.visit(SITES_IPV4[0])) as stream:
        stream.wait_for_more(100_000)
        multihop.wg("listen-port", "50999")
        # Whoever only listens is not found again before it says something: WireGuard does so after ten seconds.
        wait_until("the tunnel after the change", lambda: reaches(multihop))
        stream.wait_for_more(500_000)
    assert multihop.endpoint() != before
    assert handshake(multihop) == made, "by its data alone"


@contextmanager
def moved(multihop: MultiHop) -> Iterator[str]:
    """The subscriber on another network: a second link, by which its way to the entry goes now.

    Both WireGuards send from the address at which they were last spoken to, until the way leaves by another interface
    (send4 in drivers/net/wireguard/socket.c; device/sticky_linux.go in wireguard-go). A new address at the same
    interface is no test with wireguard-go: once the old one has gone it waits for EINVAL, and recent kernels say
    ENETUNREACH.
    """
    network, address, provider = "outer1", "100.64.10.2", "100.64.10.1"

    def lead(gateway: str, interface: str) -> None:
        command = ["ip", "route", "replace", f"{ENTRY[4]}/32", "via", gateway, "dev", interface]
        done = namespaces.run(multihop.namespace, command, lab=multihop.lab.name, timeout=patience(10))
        assert not done.returncode, done.stderr

    link = links.End(multihop.namespace, network, (f"{address}/30",))
    links.pair(link, links.End(multihop.lab.plan.internet, "provider10", (f"{provider}/30",)))
    entry.write_checksums(multihop.namespace, network)
    lead(provider, network)
    try:
        yield address
    finally:
        lead(str(entry.PROVIDER_IPV4.ip), OUTER)


def test_a_subscriber_whose_address_changes_goes_on(multihop: MultiHop) -> None:
    """What still comes in by the old way would hold it there, so nothing is on its way meanwhile."""
    connect(multihop, 4, 4)
    made, before = handshake(multihop), multihop.endpoint()
    with moved(multihop) as address:
        wait_until("the tunnel after the change", lambda: reaches(multihop))
        assert traffic.udp_echo(multihop.visit(SITES_IPV6[0]), 20) == 20
        assert multihop.endpoint() != before
        assert handshake(multihop) == made, "by its data alone"
        assert ip_address(address).packed in maps_of(multihop.entry)


NARROW, FITTING = 1400, 1364
"""Of a link; and what passes it from a tunnel, where both go by one, but not in a tunnel."""
PATHS = (
    ("behind the entry", 6, 6),
    ("behind the entry", 4, 6),
    ("behind the entry", 6, 4),
    ("before the entry", 6, 6),
    ("before the entry", 4, 6),
)


@pytest.mark.parametrize(("where", "here", "there"), PATHS)
def test_full_packets_pass_a_narrow_path(multihop: MultiHop, where: str, here: int, there: int) -> None:
    """Its router tells the entry, and the entry whoever sent them; from then on they come and go in fragments.

    A virtual link loses what its far end does not take, so both ends are narrow.
    """
    lab, ends = multihop.lab, [(multihop.lab.plan.internet, TO_NODE), (multihop.lab.plan.node, UPLINK)]
    if where == "before the entry":
        ends = [(lab.plan.internet, entry.PROVIDER), (multihop.namespace, OUTER)]
    connect(multihop, here, there)
    visit, told = multihop.visit(SITES_IPV4[0]), counted(multihop.entry, "ICMP_ERRORS")
    with narrowed(*ends[0], NARROW), narrowed(*ends[1], NARROW):
        wait_until("full packets", lambda: traffic.udp_echo(visit, 1, size=FITTING) == 1)
        assert traffic.udp_echo(visit, 20, size=FITTING) == 20
    narrow = there if where == "behind the entry" else here
    assert (counted(multihop.entry, "ICMP_ERRORS") > told) == (narrow == 6), "routers cut up IPv4 by themselves"
    forget_paths(lab, multihop.namespace, lab.plan.node)


def test_neither_node_knows_both_ends(multihop: MultiHop) -> None:
    """The entry holds where the subscriber is, and neither what it is inside nor whom it talks to; the exit node's
    state holds the second alone: not the subscriber's outer address, and of sites only keyed hashes.

    Looked through are maps, files, and the memory of every process of a node; where WireGuard is one, it has of
    course the packets that it decrypts.
    """
    connect(multihop, 4, 4)
    assert all(reaches(multihop, site) for site in canaries.SITES.values())
    client = {"subscriber": str(entry.FAR_IPV4.ip).encode()}
    inner, sites = {f"inner {address}": address.encode() for address in entry.INNER}, canaries.sites()
    here, there = (kept(node, client | inner | sites) for node in (multihop.entry, multihop.lab.node))
    assert here == {"subscriber in maps"}, "the search finds what there is to find, and nothing else"
    assert {f"{name} in maps" for name in inner} <= there, "the search finds what there is to find"
    assert not {what for what in there if what.startswith("subscriber")}
    assert not {what for what in there if what.startswith("site") and "wireguard-go" not in what}
    assert multihop.endpoint().startswith(f"{ENTRY[4]}:")


def kept(node: Node, addresses: dict[str, bytes]) -> set[str]:
    """What a node has of these addresses, as "name in place"; as text, in binary and in base64."""
    forms = canaries.in_memory(addresses)
    places = {"maps": [maps_of(node)], "files": files_of(node)}
    places |= {f"{name} ({pid})": memory_of(pid) for pid, name in node.processes().items()}
    return {
        f"{name} in {place}"
        for place, parts in places.items()
        for part in parts
        for name in addresses
        if any(text in part for form, text in forms.items() if form.startswith(f"{name} "))
    }


def memory_of(pid: int) -> Iterator[bytes]:
    """What a process has in its memory; a helper that has ended meanwhile holds nothing."""
    with suppress(FileNotFoundError, ProcessLookupError):
        yield from search.memory(pid)


def maps_of(node: Node) -> bytes:
    """Everything that the BPF maps of a node hold."""
    record = layout.load(node.run_directory / "layout.json")
    assert record is not None
    found = bytearray()
    for name, described in record.maps.items():
        with Map(node.run_directory / "bpf" / record.layout, name, described) as opened:
            for keys, values in opened.raw_chunks():
                found += keys + values
    return bytes(found)


def files_of(node: Node) -> Iterable[bytes]:
    """Its log, and everything that it writes while it runs."""
    yield node.log.read_bytes()
    for path in node.run_directory.rglob("*"):
        if path.is_file() and node.run_directory / "bpf" not in path.parents:
            yield path.read_bytes()


@contextmanager
def relaying(node: Node, *to: tuple[int, str]) -> Iterator[None]:
    """The node with these relays instead, by a reload; afterwards with those it had."""
    before = node.config.read_text()
    head, _, rest = before.partition("to = [\n")
    try:
        rows, tail = "".join(relay(*row) for row in to), rest.partition("\n]")[2]
        node.config.write_text(f"{head}to = [\n{rows}]{tail}")
        assert not node.jetplane("reload").returncode
        yield
    finally:
        node.config.write_text(before)
        assert not node.jetplane("reload").returncode


def test_relays_come_change_and_go_while_another_carries_traffic(multihop: MultiHop) -> None:
    connect(multihop, 4, 4)
    made, before = handshake(multihop), multihop.endpoint()
    mine, new = (entry.PORTS[4], at(4, LISTEN_PORT)), entry.PORTS[6] + 9
    with traffic.Stream(multihop.visit(SITES_IPV4[0])) as stream:
        stream.wait_for_more(100_000)
        # One has come before it in the list, and one that stood behind it leads elsewhere.
        with relaying(multihop.entry, (new, at(6, LISTEN_PORT)), mine, (entry.PORTS[6], at(4, LISTEN_PORT))):
            stream.wait_for_more(200_000)
            assert (handshake(multihop), multihop.endpoint()) == (made, before), "nothing has happened to its session"
            multihop.dial(6, 6)
            wait_until("the relay that has changed", lambda: reaches(multihop))
            assert multihop.endpoint().startswith(f"{ENTRY[4]}:")
            multihop.dial(6, new)
            wait_until("the relay that is new", lambda: reaches(multihop))
            assert multihop.endpoint().startswith(f"[{ENTRY[6]}]:")
    multihop.dial(6, new)
    assert not reaches(multihop), "it has gone"


BAD = (
    ("a name", "exit.example:51820", "expected address:port"),
    ("a relay to the node itself", at(6, 51820, ENTRY), "expected another node; this is an address of uplink0 here"),
)


@pytest.mark.parametrize(("exit_node", "told"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_cannot_be_relayed_to_is_refused_and_nothing_changes(
    multihop: MultiHop, exit_node: str, told: str
) -> None:
    connect(multihop, 4, 4)
    config = multihop.entry.config
    text = config.read_text()
    line = text[: text.index(f'"{at(6, LISTEN_PORT)}"')].count("\n") + 1
    try:
        config.write_text(text.replace(at(6, LISTEN_PORT), exit_node))
        said = multihop.entry.jetplane("reload")
        assert said.returncode
        assert f'{config}: line {line}: relay.to[1].exit = "{exit_node}": {told}' in said.stderr.decode()
        assert reaches(multihop)
    finally:
        config.write_text(text)
        assert not multihop.entry.jetplane("reload").returncode
    connect(multihop, 4, 6)


def test_nodes_that_point_at_each_other_do_not_keep_a_packet_for_ever(multihop: MultiHop) -> None:
    """Where each knows the other by the address that it sends from, the packet comes back once; else the hop limit
    ends it, or before that the handshake budget of a node."""
    here, there = multihop.entry, multihop.lab.node
    with namespaces.inside(multihop.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        before = counted(there, "RELAY_LOOP")
        client.sendto(INITIATION, (ENTRY[4], CIRCLE))
        wait_until("its end", lambda: counted(there, "RELAY_LOOP") == before + 1)

        before, relayed = counted(there, "RELAY_HOPS") + counted(here, "RELAY_HOPS"), counted(here, "RELAYED")
        # A router stands between any two nodes: with an odd number more of hops, the packet would end there.
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 8)
        client.sendto(INITIATION, (ENTRY[4], SPIRAL))
        wait_until("its end", lambda: counted(there, "RELAY_HOPS") + counted(here, "RELAY_HOPS") == before + 1)
        assert 1 < counted(here, "RELAYED") - relayed < 8
