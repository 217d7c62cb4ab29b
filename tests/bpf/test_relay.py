"""The entry of a multi-hop tunnel: subscribers' packets to the exit node, still encrypted, and the answers back.

subscriber ── provider ── up0, this node ── provider ── exit node        everything by one link, as on a real node
"""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPerror6, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from jetplane.dataplane import host
from jetplane.dataplane.links import packed
from tests.bpf.conftest import NodeFactory
from tests.bpf.guard_packets import wireguard
from tests.bpf.harness import Node, Result, Xdp, inside
from tests.bpf.packets import Packet, ip

FAMILIES = (4, 6)
OWN = {4: "192.0.2.1", 6: "2001:db8:0:1::1"}
CLIENT = {4: "198.18.7.7", 6: "2001:db8:c::7"}
ROAMED = {4: "198.19.9.9", 6: "2001:db8:d::9"}
EXIT_NODE = {4: "203.0.113.99", 6: "2001:db8:9::9"}
OTHER_EXIT = "203.0.113.98"
LISTEN = {4: 51830, 6: 51831}
THIRD = 51832
"""Ports of this node, by the family of the exit node behind them; the third leads to OTHER_EXIT."""
EXIT_PORT, CLIENT_PORT = 51820, 40000
FIRST, SESSIONS = 20000, 64
ROUTER, UPLINK = "02:00:00:00:00:99", "02:00:00:00:00:01"
PAIRS = [(here, there) for here in FAMILIES for there in FAMILIES]
IDLE_TICKS = 170
"""As many as RELAY_IDLE_S and no more than the rounding beyond: 2^30 ns each."""


@dataclass(frozen=True)
class Entry:
    """A node with relays, a link and a way to everybody by one router."""

    node: Node
    ifindex: int

    def run(self, packet: bytes | Packet) -> Result:
        with inside(self.node.namespace):
            return self.node.run("guard", bytes(packet), ingress_ifindex=self.ifindex)

    def passed_on(self, packet: Packet) -> Packet:
        result = self.run(packet)
        assert (result.verdict, dict(result.counted)) == (Xdp.TX, {"RELAYED": 1}), dict(result.counted)
        return Ether(result.output)

    def sessions(self) -> list[int]:
        return [n for n, session in self.node.maps["relay_sessions"].items() if session.life >> 32 & 0xFF > 1]


@pytest.fixture(scope="module")
def entry_node(root: None, make_node: NodeFactory) -> Entry:
    targets = [
        {"listen_port": LISTEN[4], "exit": f"{EXIT_NODE[4]}:{EXIT_PORT}"},
        {"listen_port": LISTEN[6], "exit": f"[{EXIT_NODE[6]}]:{EXIT_PORT}"},
        {"listen_port": THIRD, "exit": f"{OTHER_EXIT}:{EXIT_PORT}"},
    ]
    node = make_node(
        source="guard.bpf.c",
        relay={"to": targets, "max_sessions": SESSIONS, "first_port": FIRST},
        guard={"bogons": False, "handshakes_per_second": 1000, "stranger_handshakes_per_second": 100_000},
    )
    with inside(node.namespace):
        _ip(
            "link set lo up",
            f"link add up0 address {UPLINK} type veth peer name far0",
            "link set up0 up",
            "link set far0 up",
            f"addr add {OWN[4]}/24 dev up0",
            f"addr add {OWN[6]}/64 dev up0 nodad",
            f"neigh add 192.0.2.254 lladdr {ROUTER} dev up0 nud permanent",
            f"neigh add 2001:db8:0:1::fe lladdr {ROUTER} dev up0 nud permanent",
            "route add default via 192.0.2.254",
            "-6 route add default via 2001:db8:0:1::fe",
        )
        for path in ("ipv4/conf/up0", "ipv6/conf/all"):
            Path(f"/proc/sys/net/{path}/forwarding").write_text("1")
        return Entry(node, socket.if_nametoindex("up0"))


def test_the_verifier_takes_as_many_relays_as_a_fleet_has_nodes(root: None, make_node: NodeFactory) -> None:
    targets = [{"listen_port": 30000 + n, "exit": f"198.18.0.{n + 1}:{EXIT_PORT}"} for n in range(64)]
    make_node(source="guard.bpf.c", relay={"to": targets})


@pytest.fixture
def entry(entry_node: Entry) -> Entry:
    """The same without sessions."""
    entry_node.node.reset()
    own = [packed(address) for address in OWN.values()]
    for address in own:
        entry_node.node.maps["own_addresses"].update(address, 1)
    host.write_relay_addresses(entry_node.node.maps["relay_addresses"], own, ())
    return entry_node


def is_dropped(entry: Entry, packet: bytes | Packet, reason: str) -> bool:
    """Whether the packet is dropped, and under this name."""
    result = entry.run(packet)
    return result.verdict == Xdp.DROP and result.dropped == reason


def _ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True, timeout=10)


def frame(source: str, destination: str, sport: int, dport: int, payload: bytes, **fields: int) -> Packet:
    return Ether(src=ROUTER, dst=UPLINK) / ip(source, destination, **fields) / UDP(sport=sport, dport=dport) / payload


def from_client(
    here: int, there: int, payload: bytes, *, client: str = "", port: int = CLIENT_PORT, **fields: int
) -> Packet:
    """From a subscriber of one family to the relay whose exit node is of another."""
    return frame(client or CLIENT[here], OWN[here], port, LISTEN[there], payload, **fields)


INITIATION, RESPONSE = wireguard(1, 148), wireguard(2, 92)


def data(index: bytes = b"\4\5\6\7", size: int = 96) -> bytes:
    return (b"\4\0\0\0" + index + bytes(range(256)) * 6)[:size]


def soundly(packet: Packet) -> Packet:
    """The packet, after scapy has come to the same checksums and lengths."""
    again = packet.copy()
    for layer in (IP, UDP, IPv6):
        if layer in again:
            for name in ("chksum", "len", "plen"):
                if name in again[layer].fields:
                    delattr(again[layer], name)
    assert bytes(Ether(bytes(again))) == bytes(packet)
    return packet


def network(packet: Packet) -> Packet:
    return packet[IP] if IP in packet else packet[IPv6]


def open_session(entry: Entry, here: int, there: int, **client: object) -> Packet:
    return entry.passed_on(from_client(here, there, INITIATION, **client))  # type: ignore[arg-type]


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_a_handshake_goes_to_the_exit_node_and_its_answer_comes_back(entry: Entry, here: int, there: int) -> None:
    out = soundly(open_session(entry, here, there))
    assert (out.src, out.dst) == (UPLINK, ROUTER)
    header = network(out)
    assert (header.src, header.dst, out[UDP].dport) == (OWN[there], EXIT_NODE[there], EXIT_PORT)
    assert FIRST <= out[UDP].sport < FIRST + SESSIONS
    assert bytes(out[UDP].payload) == INITIATION
    back = soundly(entry.passed_on(frame(EXIT_NODE[there], OWN[there], EXIT_PORT, out[UDP].sport, RESPONSE)))
    header = network(back)
    assert (header.src, header.dst) == (OWN[here], CLIENT[here])
    assert (back[UDP].sport, back[UDP].dport) == (LISTEN[there], CLIENT_PORT)
    assert bytes(back[UDP].payload) == RESPONSE
    for size in (32, 96, 1392 + 32):
        assert bytes(soundly(entry.passed_on(from_client(here, there, data(size=size))))[UDP].payload) == data(
            size=size
        )


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_class_is_kept_and_one_hop_is_taken(entry: Entry, here: int, there: int) -> None:
    fields = {"tos": 0xB9, "ttl": 9} if here == 4 else {"tc": 0xB9, "ttl": 9}
    header = network(entry.passed_on(from_client(here, there, INITIATION, **fields)))
    assert (header.tos, header.ttl) == (0xB9, 8) if there == 4 else (header.tc, header.hlim) == (0xB9, 8)
    assert is_dropped(entry, from_client(here, there, INITIATION, **(fields | {"ttl": 1})), "RELAY_HOPS")


def test_each_client_and_each_relay_has_a_port_of_its_own(entry: Entry) -> None:
    ports = [
        open_session(entry, here, there, client=f"{client}{n}", port=port)[UDP].sport
        for here, there in PAIRS
        for client in [CLIENT[here][:-1]]
        for n in (1, 2)
        for port in (1000, 1001)
    ]
    assert len(set(ports)) == len(ports) == len(entry.sessions())
    again = open_session(entry, 4, 4, client=CLIENT[4][:-1] + "1", port=1000)[UDP].sport
    assert again == ports[0], "a session keeps its port through every handshake"


@pytest.mark.parametrize("payload", [RESPONSE, wireguard(3, 64), data()], ids=["response", "cookie", "data"])
def test_only_an_initiation_begins_a_session(entry: Entry, payload: bytes) -> None:
    assert is_dropped(entry, from_client(4, 6, payload), "RELAY_SESSION")
    assert entry.sessions() == []


SHAPELESS = {"junk": b"hello", "a long initiation": wireguard(1, 149), "type 5": wireguard(5, 148), "nothing": b""}


@pytest.mark.parametrize("payload", SHAPELESS.values(), ids=SHAPELESS)
def test_what_is_no_message_of_wireguard_is_dropped(entry: Entry, payload: bytes) -> None:
    out = open_session(entry, 4, 4)
    assert is_dropped(entry, from_client(4, 4, payload), "WIREGUARD_SHAPE")
    assert is_dropped(entry, frame(EXIT_NODE[4], OWN[4], EXIT_PORT, out[UDP].sport, payload), "WIREGUARD_SHAPE")


def test_only_the_exit_node_may_answer(entry: Entry) -> None:
    port = open_session(entry, 4, 4)[UDP].sport
    for source, sport, dport in (
        (OTHER_EXIT, EXIT_PORT, port),
        (EXIT_NODE[4], EXIT_PORT + 1, port),
        (EXIT_NODE[4], EXIT_PORT, FIRST + (port - FIRST + 1) % SESSIONS),
        (CLIENT[4], CLIENT_PORT, port),
    ):
        assert is_dropped(entry, frame(source, OWN[4], sport, dport, data()), "RELAY_SESSION")
    assert is_dropped(entry, frame(EXIT_NODE[6], OWN[6], EXIT_PORT, port, data()), "RELAY_SESSION")


@pytest.mark.parametrize("announced_by", [RESPONSE, INITIATION], ids=["response", "re-key by the exit node"])
def test_a_client_whose_address_changes_goes_on_with_the_data_of_its_tunnel(entry: Entry, announced_by: bytes) -> None:
    port = open_session(entry, 4, 4)[UDP].sport
    index = announced_by[4:8]
    assert is_dropped(entry, from_client(4, 4, data(index), client=ROAMED[4]), "RELAY_SESSION"), "not yet announced"
    entry.passed_on(frame(EXIT_NODE[4], OWN[4], EXIT_PORT, port, announced_by))
    out = entry.passed_on(from_client(4, 4, data(index), client=ROAMED[4]))
    assert out[UDP].sport != port, "the exit node sees a change, and answers there once it has proved authentic"
    back = entry.passed_on(frame(EXIT_NODE[4], OWN[4], EXIT_PORT, out[UDP].sport, data()))
    assert back[IP].dst == ROAMED[4]
    assert is_dropped(entry, from_client(4, 4, data(b"\xff" * 4), client="198.19.9.10"), "RELAY_SESSION")
    other = frame("198.19.9.11", OWN[4], 1, THIRD, data(index))
    assert is_dropped(entry, other, "RELAY_SESSION"), "an index is known to its own relay alone"


def age(entry: Entry, ticks: int) -> None:
    """Let all sessions have been silent for so long."""
    sessions = entry.node.maps["relay_sessions"]
    for slot in entry.sessions():
        session = sessions.lookup(slot)
        session.life = session.life & ~0xFFFFFFFF | (session.life - ticks) & 0xFFFFFFFF
        sessions.update(slot, session)


def sweep(entry: Entry) -> None:
    entry.node.run("sweep_relays", bytes(14))


def test_a_session_that_is_silent_ends_and_nothing_is_left_of_its_client(entry: Entry) -> None:
    port = open_session(entry, 4, 4)[UDP].sport
    age(entry, IDLE_TICKS - 5)
    sweep(entry)
    assert len(entry.sessions()) == 1, "not yet"
    age(entry, 10)
    assert is_dropped(entry, frame(EXIT_NODE[4], OWN[4], EXIT_PORT, port, data()), "RELAY_SESSION")
    assert is_dropped(entry, from_client(4, 4, data()), "RELAY_SESSION")
    sweep(entry)
    assert entry.sessions() == []
    assert not list(entry.node.maps["relay_clients"].items())
    for _, session in entry.node.maps["relay_sessions"].items():
        assert not any(bytes(session.client)) and not session.client_port


def test_only_the_client_keeps_its_session_alive(entry: Entry) -> None:
    port = open_session(entry, 4, 4)[UDP].sport
    age(entry, IDLE_TICKS - 20)
    entry.passed_on(frame(EXIT_NODE[4], OWN[4], EXIT_PORT, port, data()))
    age(entry, 30)
    assert is_dropped(entry, frame(EXIT_NODE[4], OWN[4], EXIT_PORT, port, data()), "RELAY_SESSION")
    port = open_session(entry, 4, 4)[UDP].sport
    age(entry, IDLE_TICKS - 20)
    entry.passed_on(from_client(4, 4, data()))
    age(entry, 30)
    entry.passed_on(frame(EXIT_NODE[4], OWN[4], EXIT_PORT, port, data()))


def test_a_flood_of_clients_drops_the_new_and_leaves_the_old(entry: Entry) -> None:
    mine = open_session(entry, 4, 4)[UDP].sport
    refused = 0
    for n in range(1000):
        packet = from_client(4, 4, INITIATION, client=f"198.18.{n >> 8}.{n & 255}", port=9)
        if is_dropped(entry, packet, "RELAY_FULL"):
            refused += 1
    assert 1000 - SESSIONS <= refused < 1000
    assert SESSIONS * 3 // 4 < len(entry.sessions()) <= SESSIONS
    assert len(list(entry.node.maps["relay_clients"].items())) == len(entry.sessions())
    assert entry.passed_on(from_client(4, 4, data()))[UDP].sport == mine
    age(entry, 2 * IDLE_TICKS)
    assert FIRST <= open_session(entry, 4, 6)[UDP].sport < FIRST + SESSIONS, "who has been silent gives way"
    assert len(list(entry.node.maps["relay_clients"].items())) == len(
        [s for _, s in entry.node.maps["relay_sessions"].items() if s.life >> 32 & 0xFF > 1]
    )


def test_a_datagram_without_a_checksum_stays_so_in_ipv4_and_cannot_become_ipv6(entry: Entry) -> None:
    packet = from_client(4, 4, INITIATION)
    packet[UDP].chksum = 0
    assert entry.passed_on(packet)[UDP].chksum == 0
    packet = from_client(4, 6, INITIATION)
    packet[UDP].chksum = 0
    assert is_dropped(entry, packet, "MALFORMED")


def told_too_big(packet: Packet) -> tuple[int, Packet]:
    """The MTU in a sound "too big", and the datagram that it is about."""
    again = packet.copy()
    if ICMP in again:
        assert (again[ICMP].type, again[ICMP].code) == (3, 4)
        mtu, quoted = again[ICMP].nexthopmtu, again[IPerror]
        del again[IP].chksum, again[ICMP].chksum
        again[IPerror].chksum = None
    else:
        mtu, quoted = again[ICMPv6PacketTooBig].mtu, again[IPerror6]
        del again[ICMPv6PacketTooBig].cksum
    assert bytes(Ether(bytes(again))) == bytes(packet)
    return mtu, quoted


def is_quoted(quoted: Packet, whole: Packet) -> bool:
    """Whether this is how a datagram begins."""
    built = Ether(bytes(whole))
    ports = [(p.sport, p.dport, p.len, p.chksum) for p in (quoted[UDPerror], built[UDP])]
    return ports[0] == ports[1] and (quoted.src, quoted.dst) == (network(built).src, network(built).dst)


def test_who_sends_what_is_too_big_for_the_way_is_told(entry: Entry) -> None:
    """Twenty bytes more of header, and eight of a fragment's: the rest is for the sender to cut up."""
    open_session(entry, 4, 6)
    assert entry.passed_on(from_client(4, 6, data(size=1452)))
    big = from_client(4, 6, data(size=1456))
    result = entry.run(big)
    assert (result.verdict, result.dropped) == (Xdp.TX, "RELAY_SIZE")
    error = Ether(result.output)
    assert (error[IP].src, error[IP].dst, error.dst) == (OWN[4], CLIENT[4], ROUTER)
    mtu, quoted = told_too_big(error)
    assert mtu == 1500 - 28 and is_quoted(quoted, big)
    first, last = cut(from_client(4, 6, data(size=1528)), 56)
    entry.passed_on(first)
    assert is_dropped(entry, last, "RELAY_SIZE"), "it has no ports by which to tell anybody"
    entry.passed_on(from_client(4, 4, INITIATION))
    assert entry.passed_on(from_client(4, 4, data(size=1472)))


def too_big(about: Packet, mtu: int, source: str = "") -> Packet:
    """A router's error about a packet, to whoever sent it."""
    header = network(about)
    if IP in about:
        error = IP(src=source or "198.51.100.77", dst=header.src) / ICMP(type=3, code=4, nexthopmtu=mtu)
        return Ether(src=ROUTER, dst=UPLINK) / error / bytes(header)[:68]
    return (
        Ether(src=ROUTER, dst=UPLINK)
        / IPv6(src="2001:db8:77::1", dst=header.src)
        / ICMPv6PacketTooBig(mtu=mtu)
        / bytes(header)[:600]
    )


ACROSS = {(4, 4): 1400, (6, 6): 1400, (4, 6): 1400 - 28, (6, 4): 1400 + 20}
"""Families of the sender's side and of the narrow one → what 1400 there means here."""


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_a_routers_too_big_is_told_to_whoever_sent_the_packet(entry: Entry, here: int, there: int) -> None:
    port = open_session(entry, here, there)[UDP].sport
    from_exit = frame(EXIT_NODE[there], OWN[there], EXIT_PORT, port, data(size=1424))
    for sent, to, narrow in (
        (from_client(here, there, data(size=1424)), CLIENT[here], (here, there)),
        (from_exit, EXIT_NODE[there], (there, here)),
    ):
        result = entry.run(too_big(entry.passed_on(sent), 1400))
        assert (result.verdict, dict(result.counted)) == (Xdp.TX, {"ICMP_ERRORS": 1})
        error = Ether(result.output)
        assert (network(error).src, network(error).dst) == (network(sent).dst, to)
        mtu, quoted = told_too_big(error)
        assert mtu == ACROSS[narrow] and is_quoted(quoted, sent)


def test_no_router_makes_packets_smaller_than_any_path_needs(entry: Entry) -> None:
    open_session(entry, 4, 4)
    out = entry.passed_on(from_client(4, 4, data(size=1424)))
    assert told_too_big(Ether(entry.run(too_big(out, 68)).output))[0] == 1280


@pytest.mark.parametrize("change", [{"sport": FIRST + SESSIONS}, {"dport": 9}, {"dst": OTHER_EXIT}], ids=str)
def test_an_error_about_nothing_that_was_relayed_is_the_stacks(entry: Entry, change: dict[str, object]) -> None:
    open_session(entry, 4, 4)
    out = entry.passed_on(from_client(4, 4, data(size=1424)))
    for name, value in change.items():
        setattr(out[UDP] if "port" in name else out[IP], name, value)
    result = entry.run(too_big(out, 1400))
    assert (result.verdict, dict(result.counted)) == (Xdp.PASS, {"GUARD_PASSED": 1})


def cut(packet: Packet, at: int = 1000) -> list[Packet]:
    """A datagram in two fragments."""
    built = Ether(bytes(packet))
    header, payload = network(built), bytes(network(built).payload)
    pieces = [(payload[:at], 0, 1), (payload[at:], at // 8, 0)]
    link = Ether(src=ROUTER, dst=UPLINK)
    if IP in built:
        whole = {"src": header.src, "dst": header.dst, "proto": 17, "id": 77}
        return [link / IP(frag=offset, flags=more, **whole) / Raw(part) for part, offset, more in pieces]
    extension = {"nh": 17, "id": 0x77770077}
    return [
        link / IPv6(src=header.src, dst=header.dst) / IPv6ExtHdrFragment(offset=offset, m=more, **extension) / Raw(part)
        for part, offset, more in pieces
    ]


def place(fragment: Packet) -> tuple[int, int, int, bytes]:
    """Identification, offset in bytes, more to come, payload."""
    if IP in fragment:
        header = fragment[IP]
        return header.id, header.frag * 8, int(header.flags.MF), bytes(header.payload)
    header = fragment[IPv6ExtHdrFragment]
    return header.id, header.offset * 8, header.m, bytes(header.payload)


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_data_in_fragments_is_passed_on_in_fragments(entry: Entry, here: int, there: int) -> None:
    """Both ways: the same datagram, under an identification by which nobody knows the sender's."""
    port = open_session(entry, here, there)[UDP].sport
    from_exit = frame(EXIT_NODE[there], OWN[there], EXIT_PORT, port, data(size=1424))
    for packet in (from_client(here, there, data(size=1424)), from_exit):
        whole = entry.passed_on(packet)
        first, last = (soundly_cut(entry.passed_on(fragment)) for fragment in cut(packet))
        assert (network(first).src, network(first).dst) == (network(whole).src, network(whole).dst)
        assert (network(last).src, network(last).dst) == (network(whole).src, network(whole).dst)
        (one, *begins), (other, *ends) = place(first), place(last)
        assert one == other and one not in (77, 0x77770077)
        assert (begins[:2], ends[:2]) == ([0, 1], [1000, 0])
        assert begins[2] + ends[2] == bytes(network(whole).payload)


def soundly_cut(fragment: Packet) -> Packet:
    again = fragment.copy()
    for name in ("chksum", "len", "plen"):
        if name in network(again).fields:
            delattr(network(again), name)
    assert bytes(again) == bytes(fragment)
    return fragment


@pytest.mark.parametrize("here", FAMILIES)
def test_a_later_fragment_without_its_first_is_the_stacks(entry: Entry, here: int) -> None:
    open_session(entry, here, 4)
    first, last = cut(from_client(here, 4, data(size=1424)))
    for packets in ((last,), (first, last, last)):
        *relayed, stray = packets
        for packet in relayed:
            entry.passed_on(packet)
        result = entry.run(stray)
        assert (result.verdict, dict(result.counted)) == (Xdp.PASS, {"GUARD_PASSED": 1})
    stranger = cut(from_client(here, 4, data(b"\xff" * 4, 1424), client=ROAMED[here]))
    assert is_dropped(entry, stranger[0], "RELAY_SESSION")
    assert entry.run(stranger[1]).verdict == Xdp.PASS


@pytest.mark.parametrize("there", FAMILIES)
def test_what_comes_from_the_node_that_a_relay_leads_to_is_not_sent_back(entry: Entry, there: int) -> None:
    """As it does where two nodes name each other, from the port of one of its sessions."""
    packet = from_client(there, there, INITIATION, client=EXIT_NODE[there], port=FIRST + 7)
    assert is_dropped(entry, packet, "RELAY_LOOP")
    assert entry.sessions() == []
    assert entry.passed_on(frame(EXIT_NODE[there], OWN[there], FIRST + 7, THIRD, INITIATION)), "on to a third node"


def test_handshakes_in_fragments_and_options_are_not_relayed(entry: Entry) -> None:
    open_session(entry, 4, 4)
    assert is_dropped(entry, from_client(4, 4, INITIATION, flags=1), "WIREGUARD_SHAPE")
    tagged = bytes(from_client(4, 4, data()))
    tagged = tagged[:12] + b"\x81\x00\x00\x07" + tagged[12:]
    assert is_dropped(entry, tagged, "OPTIONS")


def test_nothing_of_a_client_reaches_the_exit_node(entry: Entry) -> None:
    """Neither its address nor its port stands anywhere in what leaves."""
    for here, there in PAIRS:
        out = bytes(open_session(entry, here, there, port=61234))
        assert socket.inet_pton(socket.AF_INET if here == 4 else socket.AF_INET6, CLIENT[here]) not in out
        assert (61234).to_bytes(2) not in out[:62]
