"""What the guard must do with a packet: one row each. The rows are run by test_guard.py and timed by the benches.

Run them on a node that `guard_world.prepare` has prepared; CONVERSATIONS need its `sockets` as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.bpf.guard_packets import (
    answer,
    carrying,
    dropped,
    echo_reply,
    echo_request,
    errors,
    ethernet,
    fragment,
    passed,
    wireguard,
)
from tests.bpf.guard_world import (
    BOUND,
    BOUND_ONCE,
    BOUND_SECOND,
    CLOSED,
    CONNECTED,
    EVERYWHERE,
    EXIT,
    EXIT_OWN,
    INNER,
    LINK_LOCAL,
    LISTENING,
    NODE,
    OPENING,
    OTHER,
    QUERYING,
    RECEIVING,
    SILENT,
    SITE,
    SSH,
    STRANGER,
    SYSLOG,
    WIREGUARD,
    WIREGUARD_2,
    spend_echo,
)
from tests.bpf.harness import Case
from tests.bpf.packets import (
    ARP,
    ESP,
    FRAME,
    ICMP,
    IP,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    ICMPv6MLQuery2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    IPOption_NOP,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
    RouterAlert,
    ip,
    wire,
)

FAMILIES = (4, 6)
PROTOCOLS = ("tcp", "udp", "icmp")


LINK = (
    passed("arp passes", ARP()),
    passed("arp in a vlan passes", FRAME / Dot1Q(vlan=7) / ARP()),
    passed("lldp passes", ethernet(0x88CC)),
    passed("link aggregation passes", ethernet(0x8809)),
    passed("port authentication passes", ethernet(0x888E)),
    dropped("an unknown ethertype is not asked for", "NOT_ALLOWED", ethernet(0x1234)),
    dropped("a frame with a length for a type is not asked for", "NOT_ALLOWED", ethernet(46)),
    dropped("pppoe is not asked for", "NOT_ALLOWED", ethernet(0x8864)),
    dropped("a third vlan tag is not looked behind", "NOT_ALLOWED", FRAME / Dot1Q() / Dot1Q() / Dot1Q() / ARP()),
    dropped("a vlan tag cut short is malformed", "MALFORMED", ethernet(0x8100, bytes(3))),
    dropped("ipv4 without a header is malformed", "MALFORMED", ethernet(0x0800, b"")),
    dropped("ipv6 without a header is malformed", "MALFORMED", ethernet(0x86DD, b"")),
)


def headers_of(version: int) -> Iterator[Case]:
    """IP headers that contradict themselves or the frame."""
    whole = wire(ip(SITE[version], EXIT[version]) / UDP(dport=BOUND) / b"12345678")

    def changed(offset: int, *octets: int) -> bytes:
        start = 14 + offset
        return whole[:start] + bytes(octets) + whole[start + len(octets) :]

    if version == 4:
        yield dropped("version 5 behind the ipv4 ethertype is malformed", "MALFORMED", changed(0, 0x55))
        yield dropped("a header length of 16 is malformed", "MALFORMED", changed(0, 0x44))
        yield dropped("a header longer than the packet is malformed", "MALFORMED", changed(0, 0x4F))
        yield dropped("a total length below the header's is malformed", "MALFORMED", changed(2, 0, 19))
        yield dropped("a total length beyond the frame is malformed", "MALFORMED", changed(2, 0, 255))
        options = IP(src=SITE[4], dst=EXIT[4], options=[IPOption_NOP()] * 4) / UDP(dport=BOUND)
        yield passed("ipv4 options are stepped over", options)
    else:
        yield dropped("version 4 behind the ipv6 ethertype is malformed", "MALFORMED", changed(0, 0x40))
        yield dropped("a payload length beyond the frame is malformed", "MALFORMED", changed(4, 0, 255))
        yield dropped("a payload that ends within an extension is malformed", "MALFORMED",
                      IPv6(src=SITE[6], dst=EXIT[6], plen=4) / IPv6ExtHdrDestOpt() / UDP(dport=BOUND))  # fmt: skip
        padding = wire(IPv6(src=SITE[6], dst=EXIT[6]) / IPv6ExtHdrDestOpt() / UDP(dport=BOUND))
        longer = padding[:55] + b"\x1f" + padding[56:]
        yield dropped("an extension that leads out of the packet is malformed", "MALFORMED", longer)
    padded = whole + bytes(20)
    yield passed(f"padding behind ipv{version} is nobody's business", padded)


def exit_of(version: int) -> Iterator[Case]:
    """Packets to an exit address."""
    v = f" over ipv{version}"
    to_exit = ip(SITE[version], EXIT[version])
    tcp, udp = TCP(sport=443, dport=BOUND, flags="A"), UDP(sport=443, dport=BOUND)

    yield passed("tcp to a bound port passes" + v, to_exit / tcp)
    yield passed("udp to a bound port passes" + v, to_exit / udp / b"answer")
    yield passed("an empty datagram passes" + v, to_exit / udp)
    yield passed("an echo reply to a bound identifier passes" + v, to_exit / echo_reply(version, BOUND))
    yield passed("a bound port is seen behind a vlan tag" + v, FRAME / Dot1Q(vlan=9) / to_exit / tcp)
    yield passed("a bound port is seen behind two vlan tags" + v, FRAME / Dot1AD(vlan=9) / Dot1Q() / to_exit / tcp)
    for name, error in errors(version).items():
        yield passed(f"{name} to an exit address is for nat_in to judge{v}", to_exit / error)

    yield dropped("tcp to a free port" + v, "NO_BINDING", to_exit / TCP(dport=BOUND + 1))
    yield dropped("udp to a free port" + v, "NO_BINDING", to_exit / UDP(dport=BOUND + 1))
    for protocol in PROTOCOLS:
        for at, bound_for in enumerate(PROTOCOLS):
            packet = to_exit / answer(version, protocol, BOUND_ONCE + at)
            name = f"{protocol} to a port bound for {bound_for}{v}"
            yield passed(name, packet) if protocol == bound_for else dropped(name, "NO_BINDING", packet)
    yield dropped("an echo reply nobody waits for" + v, "NO_BINDING", to_exit / echo_reply(version, BOUND + 1))
    yield dropped("echo to an exit address" + v, "NO_BINDING", to_exit / echo_request(version, BOUND))
    message = wireguard(1, 148)
    yield dropped("wireguard to an exit address" + v, "NO_BINDING", to_exit / UDP(dport=WIREGUARD) / message)
    yield dropped("ssh to an exit address" + v, "NO_BINDING", to_exit / TCP(dport=SSH, flags="S"))
    second = ip(SITE[version], EXIT_OWN[version])
    yield dropped("a binding is of one address" + v, "NO_BINDING", to_exit / UDP(dport=BOUND_SECOND))
    yield passed("a binding of the second address" + v, second / UDP(dport=BOUND_SECOND))
    yield passed("a binding of tcp where the address is the node's too" + v, second / tcp)
    yield passed("a binding of icmp where the address is the node's too" + v, second / echo_reply(version, BOUND))
    for number in (2, 4, 33, 41, 47, 50, 51, 89, 115, 132, 136):
        other = carrying(to_exit, number, bytes(40))
        yield dropped(f"protocol {number} to an exit address{v}", "PROTOCOL", other)
    if version == 4:
        yield passed("a timestamp reply to a bound identifier passes", to_exit / ICMP(type=14, id=BOUND))
        yield dropped("a timestamp request to an exit address", "NO_BINDING", to_exit / ICMP(type=13, id=BOUND))
        yield dropped("a timestamp reply nobody waits for", "NO_BINDING", to_exit / ICMP(type=14, id=BOUND + 1))
    other = 58 if version == 4 else 1
    foreign = bytes(ICMP(type=0, id=BOUND))
    yield dropped("icmp of the other family to an exit address" + v, "PROTOCOL", carrying(to_exit, other, foreign))

    datagram = to_exit / udp / bytes(64)
    yield passed("a first fragment to a bound port passes" + v, fragment(datagram, 0, more=True))
    yield passed("a middle fragment to an exit address is for nat_in to judge" + v, fragment(datagram, 64, more=True))
    yield passed("a last fragment to an exit address is for nat_in to judge" + v, fragment(datagram, 64, more=False))
    for protocol in PROTOCOLS:
        part = fragment(to_exit / answer(version, protocol, BOUND) / bytes(64), 64, more=False)
        yield passed(f"a later fragment of {protocol} to an exit address passes{v}", part)
    closed = to_exit / UDP(dport=BOUND + 1) / bytes(64)
    yield dropped("a first fragment to a free port" + v, "NO_BINDING", fragment(closed, 0, more=True))
    unreachable = to_exit / errors(version)["unreachable"]
    yield dropped("an icmp error in fragments" + v, "FRAGMENT", fragment(unreachable, 0, more=True))
    foreign_rest = carrying(to_exit, 50, bytes(64))
    yield dropped("a later fragment of esp" + v, "PROTOCOL", fragment(foreign_rest, 64, more=False))
    yield from transports_of(version, EXIT, v + ", to an exit address")


def transports_of(version: int, to: dict[int, str], where: str) -> Iterator[Case]:
    """Transport headers that are cut short by the IP length, or contradict it."""
    header = ip(SITE[version], to[version])
    tcp, udp = bytes(TCP(dport=BOUND)), bytes(UDP(dport=BOUND, len=8))
    for name, packet in {
        "tcp of 19 bytes": carrying(header, 6, tcp[:19]),
        "tcp with a header of 16 bytes": header / TCP(dport=BOUND, dataofs=4),
        "tcp with a header longer than the packet": header / TCP(dport=BOUND, dataofs=6),
        "udp of 7 bytes": carrying(header, 17, udp[:7]),
        "udp that says 7 bytes": header / UDP(dport=BOUND, len=7),
        "udp that says more than there is": header / UDP(dport=BOUND, len=13) / b"1234",
        "icmp of 7 bytes": carrying(header, 1 if version == 4 else 58, bytes(7)),
    }.items():
        padding = bytes(20)  # the frame goes on: it is the IP length that ends the packet
        yield dropped(f"{name} is malformed{where}", "MALFORMED", wire(packet) + padding)


def extensions() -> Iterator[Case]:
    """IPv6 extension headers, to an exit address."""
    header, udp = IPv6(src=SITE[6], dst=EXIT[6]), UDP(dport=BOUND)
    options = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
    yield passed("options in front of udp are walked over", header / options / udp)
    yield passed("an atomic fragment is a whole packet", header / IPv6ExtHdrFragment(id=7) / udp)
    six = header / IPv6ExtHdrHopByHop()
    for _ in range(5):
        six = six / IPv6ExtHdrDestOpt()
    yield passed("six extensions are walked over", six / udp)
    yield dropped("a seventh is not", "PROTOCOL", six / IPv6ExtHdrDestOpt() / udp)
    yield dropped("nothing behind a routing header is believed", "PROTOCOL", header / IPv6ExtHdrRouting() / udp)
    yield dropped("no next header", "PROTOCOL", carrying(header, 59, b""))
    later = IPv6ExtHdrFragment(nh=17, offset=8, m=1)
    yield passed("a fragment behind options", header / options / later / Raw(bytes(64)))
    first = IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt() / udp / Raw(bytes(64))
    yield dropped("options behind a fragment header", "PROTOCOL", header / first)


def own_of(version: int, to: dict[int, str], what: str) -> Iterator[Case]:
    """Packets to an address of the node's own."""
    v = f" over ipv{version}, to {what}"
    own = ip(SITE[version], to[version])

    for kind, length in ((1, 148), (2, 92), (3, 64), (4, 32), (4, 48), (4, 1440), (4, 1452)):
        message = own / UDP(dport=WIREGUARD) / wireguard(kind, length)
        yield passed(f"wireguard type {kind} of {length} bytes passes{v}", message)
    second = own / UDP(dport=WIREGUARD_2) / wireguard(1, 148)
    yield passed("every tunnel's port is open" + v, second)
    wrong = {
        "nothing": b"",
        "three bytes": bytes([1, 0, 0]),
        "type 0": wireguard(0, 148),
        "type 5": wireguard(5, 148),
        "text": b"GET / HTTP/1.1\r\n\r\n",
        **{f"type 1 with byte {at} set": wireguard(1, 148, bytes(at == n for n in (1, 2, 3))) for at in (1, 2, 3)},
        **{f"type {kind} of {n} bytes": wireguard(kind, n) for kind, n in ((1, 147), (1, 149), (2, 91), (2, 93))},
        **{f"type {kind} of {n} bytes": wireguard(kind, n) for kind, n in ((3, 63), (3, 65), (1, 64), (3, 148))},
        **{f"type 4 of {n} bytes": wireguard(4, n) for n in (16, 31, 33, 607)},
    }
    for name, payload in wrong.items():
        yield dropped(f"{name} at the wireguard port{v}", "WIREGUARD_SHAPE", own / UDP(dport=WIREGUARD) / payload)
    neighbour = own / UDP(dport=WIREGUARD + 2) / wireguard(1, 148)
    yield dropped("a port beside the tunnels' is closed" + v, "NOT_ALLOWED", neighbour)
    yield dropped("wireguard over tcp is nothing" + v, "NOT_ALLOWED", own / TCP(dport=WIREGUARD) / wireguard(1, 148))

    big = own / UDP(dport=WIREGUARD) / wireguard(4, 1520)
    head, tail = big.copy(), bytes(big[UDP])[800:]
    head[UDP].len, head[UDP].payload = 1528, Raw(wireguard(4, 1520)[:792])
    yield passed("the first fragment of wireguard data passes" + v, fragment(head, 0, more=True))
    rest = carrying(own, 17, tail)
    yield passed("later fragments of udp are for reassembly" + v, fragment(rest, 800, more=False))
    odd = own / UDP(dport=WIREGUARD, len=156) / wireguard(1, 64)
    yield dropped("a handshake never comes in fragments" + v, "WIREGUARD_SHAPE", fragment(odd, 0, more=True))
    closed = own / UDP(dport=9999, len=1528) / bytes(64)
    yield dropped("a first fragment is judged by its port" + v, "NOT_ALLOWED", fragment(closed, 0, more=True))
    short = wire(fragment(carrying(own, 17, bytes(UDP())[:7]), 0, more=True)) + bytes(20)
    yield dropped("a first fragment without its ports is malformed" + v, "MALFORMED", short)
    tcp = own / TCP(dport=SSH) / bytes(12)
    yield dropped("tcp does not come in fragments" + v, "FRAGMENT", fragment(tcp, 0, more=True))
    if to is NODE:
        yield dropped("nor in later ones" + v, "FRAGMENT", fragment(tcp, 64, more=False))
    else:
        yield passed("later ones may be a subscriber's" + v, fragment(tcp, 64, more=False))
    echo = own / echo_request(version) / bytes(64)
    yield dropped("echo does not come in fragments" + v, "FRAGMENT", fragment(echo, 0, more=True))

    yield passed("a service is open to its prefix" + v, own / TCP(dport=SSH, flags="S"))
    yield passed("a udp service is open to its prefix" + v, own / UDP(dport=SYSLOG) / b"line")
    elsewhere = ip(OTHER[version], to[version])
    yield passed("a service is open to a whole family" + v, elsewhere / TCP(dport=EVERYWHERE[version], flags="S"))
    foreign_service = own / TCP(dport=EVERYWHERE[10 - version], flags="S")
    yield dropped("a service is closed to the other family" + v, "NOT_ALLOWED", foreign_service)
    yield dropped("a service is closed to others" + v, "NOT_ALLOWED", elsewhere / TCP(dport=SSH, flags="S"))
    yield dropped("a udp service is closed to others" + v, "NOT_ALLOWED", elsewhere / UDP(dport=SYSLOG) / b"line")
    yield dropped("the other protocol's port stays closed" + v, "NOT_ALLOWED", own / UDP(dport=SSH))
    yield dropped("the port beside it stays closed" + v, "NOT_ALLOWED", own / TCP(dport=SSH + 1, flags="S"))
    yield dropped("tcp out of nowhere" + v, "NOT_ALLOWED", own / TCP(dport=40000, flags="A"))
    yield dropped("udp out of nowhere" + v, "NOT_ALLOWED", own / UDP(dport=40000))
    yield dropped("esp to the node" + v, "NOT_ALLOWED", own / ESP(spi=7, seq=1))
    foreign = carrying(own, 58 if version == 4 else 1, bytes(ICMP(type=8)))
    yield dropped("icmp of the other family to the node" + v, "NOT_ALLOWED", foreign)

    for name, error in errors(version).items():
        yield passed(f"{name} passes{v}", own / error)
    yield passed("echo passes within the rate" + v, own / echo_request(version))
    yield passed("an echo reply passes within the rate" + v, own / echo_reply(version))
    for name, packet in {"echo": echo_request(version), "an echo reply": echo_reply(version)}.items():
        yield replace(dropped(f"{name} beyond the rate{v}", "ICMP_RATE", own / packet), given=spend_echo)
    yield replace(passed("errors know no rate" + v, own / errors(version)["too big"]), given=spend_echo)
    asks = ICMP(type=13) if version == 4 else ICMPv6ND_RS()
    yield dropped("other icmp is not answered" + v, "NOT_ALLOWED", own / asks)
    yield from transports_of(version, to, v)


def configuration() -> Iterator[Case]:
    """What a host without a fixed address needs, and who could use it as a way in."""
    offer4, offer6 = UDP(sport=67, dport=68) / bytes(240), UDP(sport=547, dport=546) / bytes(60)
    yield passed("dhcp answers to the node's address", IP(src=SITE[4], dst=NODE[4]) / offer4)
    yield passed("dhcp answers to everybody", IP(src=SITE[4], dst="255.255.255.255") / offer4)
    yield passed("dhcp answers to an address not yet taken", IP(src=SITE[4], dst=STRANGER[4]) / offer4)
    yield passed("dhcpv6 answers to a link-local address", IPv6(src="fe80::2", dst=LINK_LOCAL) / offer6)
    inner = IP(src=SITE[4], dst=INNER[4]) / offer4
    yield dropped("dhcp into a tunnel", "NOT_ALLOWED", inner)
    backwards = IP(src=SITE[4], dst="255.255.255.255") / UDP(sport=68, dport=67) / bytes(240)
    yield dropped("dhcp requests of others", "NOT_ALLOWED", backwards)
    yield dropped("dhcpv6 to somebody else", "NOT_ALLOWED", IPv6(src="fe80::2", dst=STRANGER[6]) / offer6)
    for name, ports in {"from another port": (66, 68), "to another port": (67, 69)}.items():
        datagram = IP(src=SITE[4], dst="255.255.255.255") / UDP(sport=ports[0], dport=ports[1]) / bytes(240)
        yield dropped(f"a broadcast {name} is not dhcp", "NOT_ALLOWED", datagram)
    for name, ports in {"from another port": (548, 546), "to another port": (547, 545)}.items():
        other = IPv6(src="fe80::2", dst=LINK_LOCAL) / UDP(sport=ports[0], dport=ports[1]) / bytes(60)
        yield dropped(f"a datagram {name} is not dhcpv6", "NOT_ALLOWED", other)
    piece = fragment(IP(src=SITE[4], dst="255.255.255.255") / offer4, 0, more=True)
    yield dropped("dhcp in fragments", "NOT_ALLOWED", piece)

    neighbour, everybody = "fe80::2", "ff02::1"
    solicited = "ff02::1:ff00:1"
    ask = ICMPv6ND_NS(tgt=NODE[6])
    yield passed("neighbour solicitation to the group", IPv6(src=neighbour, dst=solicited, hlim=255) / ask)
    yield passed("neighbour solicitation to the node", IPv6(src=neighbour, dst=NODE[6], hlim=255) / ask)
    at_exit = IPv6(src=neighbour, dst=EXIT[6], hlim=255) / ICMPv6ND_NS(tgt=EXIT[6])
    yield passed("neighbour solicitation to an exit address", at_exit)
    yield passed("duplicate address detection", IPv6(src="::", dst=solicited, hlim=255) / ask)
    told = ICMPv6ND_NA(tgt=neighbour)
    yield passed("neighbour advertisement", IPv6(src=neighbour, dst=LINK_LOCAL, hlim=255) / told)
    yield passed("router advertisement", IPv6(src=neighbour, dst=everybody, hlim=255) / ICMPv6ND_RA())
    alert = IPv6ExtHdrHopByHop(options=[RouterAlert()])
    query = IPv6(src=neighbour, dst=everybody, hlim=1) / alert / ICMPv6MLQuery2()
    yield passed("multicast listener query", query)

    far = {"solicitation": ask, "advertisement": told, "router advertisement": ICMPv6ND_RA()}
    for name, message in far.items():
        from_afar = IPv6(src=SITE[6], dst=everybody, hlim=254) / message
        yield dropped(f"{name} that a router has passed on", "NOT_ALLOWED", from_afar)
    first = fragment(IPv6(src=neighbour, dst=solicited, hlim=255) / ask, 0, more=True)
    yield dropped("a solicitation in fragments", "NOT_ALLOWED", first)
    at_node = IPv6(src=SITE[6], dst=NODE[6], hlim=64) / ask
    yield dropped("a solicitation from afar to the node", "NOT_ALLOWED", at_node)
    yield dropped("a query from afar", "NOT_ALLOWED", IPv6(src=SITE[6], dst=everybody, hlim=64) / ICMPv6MLQuery2())
    redirect = IPv6(src=neighbour, dst=NODE[6], hlim=255) / ICMPv6ND_Redirect()
    yield dropped("redirects are not for an exit node", "NOT_ALLOWED", redirect)
    hosts = IPv6(src=neighbour, dst="ff02::2", hlim=255) / ICMPv6ND_RS()
    yield dropped("router solicitations of others", "NOT_ALLOWED", hosts)


def strangers_of(version: int) -> Iterator[Case]:
    """Packets to addresses that are not the node's."""
    v = f" over ipv{version}"
    for name, address in {"a stranger": STRANGER, "a subscriber": INNER}.items():
        header = ip(SITE[version], address[version])
        yield dropped(f"tcp to {name}{v}", "NOT_ALLOWED", header / TCP(dport=SSH))
        yield dropped(f"udp to {name}{v}", "NOT_ALLOWED", header / UDP(dport=WIREGUARD) / wireguard(1, 148))
        yield dropped(f"echo to {name}{v}", "NOT_ALLOWED", header / echo_request(version))
    group = ip(SITE[version], "224.0.0.251" if version == 4 else "ff02::fb")
    yield dropped("multicast" + v, "NOT_ALLOWED", group / UDP(sport=5353, dport=5353))


def conversations_of(version: int) -> Iterator[Case]:
    """Packets for the node's own sockets; see `sockets`."""
    v = f" over ipv{version}"
    header, other = ip(SITE[version], NODE[version]), ip(OTHER[version], NODE[version])
    yield passed("an answer on the node's own connection" + v, header / TCP(sport=443, dport=CONNECTED, flags="A"))
    yield passed("a reset of the node's own connection" + v, header / TCP(sport=443, dport=CONNECTED, flags="R"))
    opening = ip(SILENT[version], NODE[version]) / TCP(sport=81, dport=OPENING, flags="SA")
    yield passed("the answer to the node's own syn" + v, opening)
    yield passed("the end of a connection that has ended" + v, header / TCP(sport=443, dport=CLOSED, flags="FA"))
    yield passed("an answer to the node's own query" + v, header / UDP(sport=53, dport=QUERYING) / b"answer")
    whole = header / UDP(sport=53, dport=QUERYING, len=4000) / bytes(64)
    yield passed("the first fragment of a long answer" + v, fragment(whole, 0, more=True))

    other_port = header / TCP(sport=444, dport=CONNECTED, flags="A")
    yield dropped("another port on the node's connection" + v, "NOT_ALLOWED", other_port)
    other_site = other / TCP(sport=443, dport=CONNECTED, flags="A")
    yield dropped("another site on the node's connection" + v, "NOT_ALLOWED", other_site)
    again = header / TCP(sport=443, dport=CONNECTED, flags="S")
    yield dropped("a syn on the node's connection" + v, "NOT_ALLOWED", again)
    yield dropped("a syn to a listening port" + v, "NOT_ALLOWED", header / TCP(dport=LISTENING, flags="S"))
    yield dropped("an ack to a listening port" + v, "NOT_ALLOWED", header / TCP(dport=LISTENING, flags="A"))
    spoofed = other / UDP(sport=53, dport=QUERYING)
    yield dropped("another site's answer to the node's query" + v, "NOT_ALLOWED", spoofed)
    wrong_port = header / UDP(sport=54, dport=QUERYING)
    yield dropped("an answer from another port" + v, "NOT_ALLOWED", wrong_port)
    yield dropped("a datagram to a port that is only bound" + v, "NOT_ALLOWED", header / UDP(dport=RECEIVING))


CASES = (
    *LINK,
    *(row for version in FAMILIES for row in headers_of(version)),
    *(row for version in FAMILIES for row in exit_of(version)),
    *extensions(),
    *(row for version in FAMILIES for row in own_of(version, NODE, "an address of the node")),
    *(row for version in FAMILIES for row in own_of(version, EXIT_OWN, "an exit address that is the node's")),
    *configuration(),
    *(row for version in FAMILIES for row in strangers_of(version)),
)
CONVERSATIONS = tuple(row for version in FAMILIES for row in conversations_of(version))


def _drained() -> Iterator[Case]:
    """Not even the answer to a handshake that the node's own WireGuard has begun: it would make a new session."""
    for version in FAMILIES:
        v, own = f", ipv{version}", ip(SITE[version], NODE[version])
        for kind, length in ((1, 148), (2, 92), (3, 64)):
            handshake = wireguard(kind, length)
            yield dropped(f"type {kind} to a port that drains" + v, "DRAINING", own / UDP(dport=WIREGUARD) / handshake)
            yield passed(f"type {kind} to another port" + v, own / UDP(dport=WIREGUARD_2) / handshake)
        yield passed("data to a port that drains" + v, own / UDP(dport=WIREGUARD) / wireguard(4, 128))
        odd = own / UDP(dport=WIREGUARD) / wireguard(1, 147)
        yield dropped("no message to a port that drains" + v, "WIREGUARD_SHAPE", odd)


DRAINED = tuple(_drained())
"""While WIREGUARD stands in the map `draining`."""
