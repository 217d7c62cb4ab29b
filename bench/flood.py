"""Floods that nobody asked for: how fast the node gets rid of them on one core, for each reason it has.

Beside it: the least that XDP can do (count and drop, without a look at the packet), and the fastest drops of the
ordinary alternatives, nftables' at the device and iptables' before connection tracking, with one rule that matches the
whole flood. Every packet must have been dropped by the very rule or reason in question, or nothing is reported.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench import cores
from bench.contenders import (
    IPTABLES,
    JETPLANE,
    MASQUERADE,
    Contender,
    configure,
    iptables,
    jetplane_node,
    nft,
    receive_frames,
)
from bench.flooding import Flooding, Floodings, Sources
from bench.forwarding import Say
from bench.frames import Whole, tcp, udp, whole
from bench.results import Row, compared
from bench.traffic import Place
from jetplane.dataplane.links import Links, interface_index
from jetplane.errors import JetplaneError
from jetplane.lab import namespaces
from jetplane.lab.addresses import LISTEN_PORT, NODE_IPV4, NODE_IPV6, TO_NODE, UPLINK, LabOptions
from jetplane.lab.links import hardware_address
from jetplane.lab.topology import Lab, lab

BARE, NETDEV = "bare XDP_DROP that counts", "nftables drop at the device"
_RAW = "iptables drop in raw"

BLOCKED = {"whole /24s": "20.77.0.0/16", "single addresses": "20.78.1.0/29", "IPv6": "2a00:77::/48"}
"""What the node's blocklist says."""
ANYBODY = {4: "20.0.0.1", 6: "2a00:1::1"}
"""Sources that are on no list. They exist elsewhere; nothing that is sent here leaves the lab."""
PREFIXES = 100_000

_ENOUGH = 0.9
"""A budget lets some through, and those are no drops; of everything else not one may be missing."""

_CROWD = Sources(count=1000)
_UDP, _TCP, _ICMP = 17, 6, 1
_SYN, _ACK = 2, 16
_INITIATION = b"\1\0\0\0" + bytes(144)
_TABLE = """
table netdev flood {{
    chain ingress {{
        type filter hook ingress device "{device}" priority -500
        {match} counter drop
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Flood:
    """What is sent, and the drop reasons that jetplane must count it under."""

    name: str
    reasons: tuple[str, ...]
    source: str
    destination: str
    protocol: int
    transport: bytes
    sources: Sources = _CROWD
    by_source: str = ""
    """The prefix by which a rival's rule knows it; else it is destination, protocol and port."""
    budget: bool = False

    @property
    def version(self) -> int:
        """Of IP."""
        return ipaddress.ip_address(self.source).version

    @property
    def port(self) -> int:
        """The destination's."""
        return int(struct.unpack_from("!H", self.transport, 2)[0])

    def whole(self, to_mac: bytes) -> Whole:
        """The frame."""
        return whole(
            to_mac=to_mac, source=self.source, destination=self.destination,
            protocol=self.protocol, transport=self.transport,
        )  # fmt: skip

    def nft(self) -> str:
        """What nftables knows it by."""
        family = "ip" if self.version == 4 else "ip6"
        if self.by_source:
            return f"{family} saddr {self.by_source}"
        if self.protocol == _ICMP:
            return f"{family} daddr {self.destination} icmp type echo-request"
        return f"{family} daddr {self.destination} {'tcp' if self.protocol == _TCP else 'udp'} dport {self.port}"

    def iptables(self) -> list[str]:
        """What iptables knows it by."""
        if self.by_source:
            return ["-s", self.by_source]
        if self.protocol == _ICMP:
            return ["-d", self.destination, "-p", "icmp", "--icmp-type", "echo-request"]
        return ["-d", self.destination, "-p", "tcp" if self.protocol == _TCP else "udp", "--dport", str(self.port)]


def floods(node: Contender) -> Sequence[Flood]:
    """One for each thing that the guard says no to."""
    own, own6 = str(NODE_IPV4.ip), str(NODE_IPV6.ip)
    anybody, anybody6 = ANYBODY[4], ANYBODY[6]
    at_exit = node.lab.plan.exit_ipv4[0], _UDP, udp(9, 1023, bytes(18))
    at_exit6 = node.lab.plan.exit_ipv6[0], _UDP, udp(9, 1023, bytes(6))
    address, prefix = BLOCKED["single addresses"], BLOCKED["whole /24s"]
    single, single6 = (str(ipaddress.ip_network(BLOCKED[name])[1]) for name in ("single addresses", "IPv6"))
    whole_24s = str(ipaddress.ip_network(BLOCKED["whole /24s"])[1])
    junk, initiation = udp(9, LISTEN_PORT, bytes(18)), udp(9, LISTEN_PORT, _INITIATION)
    echo = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    return (
        Flood("at an exit address, no binding", ("NO_BINDING",), anybody, *at_exit),
        Flood("at the WireGuard port, no WireGuard", ("WIREGUARD_SHAPE",), anybody, own, _UDP, junk),
        Flood("from blocked /24s", ("BLOCKED",), whole_24s, *at_exit, by_source=prefix),
        Flood("from a blocked address", ("BLOCKED",), single, *at_exit, Sources(4), by_source=address),
        Flood("from private addresses", ("BOGON",), "10.0.0.1", *at_exit, by_source="10.0.0.0/8"),
        Flood(
            "handshakes of one prefix", ("HANDSHAKE_BUDGET",),
            anybody, own, _UDP, initiation, Sources(), budget=True,
        ),
        Flood(
            f"handshakes of {PREFIXES:,} prefixes", ("HANDSHAKE_FLOOD", "HANDSHAKE_BUDGET"),
            anybody, own, _UDP, initiation, Sources(PREFIXES), budget=True,
        ),
        Flood("at a closed UDP port", ("NOT_ALLOWED",), anybody, own, _UDP, udp(9, 4242, bytes(18))),
        Flood("SYN at a closed TCP port", ("NOT_ALLOWED",), anybody, own, _TCP, tcp(9, 4242, _SYN)),
        Flood("ACK of no connection", ("NOT_ALLOWED",), anybody, own, _TCP, tcp(9, 4242, _ACK)),
        Flood("ICMP echo", ("ICMP_RATE",), anybody, own, _ICMP, echo, budget=True),
        Flood("IPv6 at an exit address, no binding", ("NO_BINDING",), anybody6, *at_exit6),
        Flood("IPv6 at the WireGuard port, no WireGuard", ("WIREGUARD_SHAPE",), anybody6, own6, _UDP, junk),
        Flood("IPv6 from a blocked prefix", ("BLOCKED",), single6, *at_exit6, by_source=BLOCKED["IPv6"]),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """One node under a flood; `dropped` says how many it has dropped as meant, since it was made."""

    name: str
    lab: Lab
    dropped: Callable[[], int]

    @property
    def place(self) -> Place:
        """Where the flood comes from."""
        return Place(self.lab.plan.internet, TO_NODE)

    def whole(self, flood: Flood) -> Whole:
        """The flood's frame, for this node."""
        return flood.whole(hardware_address(self.lab.plan.node, UPLINK))

    def confirm(self, flood: Flood, packets: int) -> None:
        """See that so many packets have been dropped for the reason meant. Raises JetplaneError."""
        dropped = self.dropped()
        if dropped < packets * (_ENOUGH if flood.budget and self.name == JETPLANE else 1):
            raise JetplaneError(
                f"bench: {self.name}: {flood.name}: {dropped} of {packets} packets were dropped as meant"
            )


@contextlib.contextmanager
def guarded() -> Iterator[Contender]:
    """jetplane's node with bogons and a blocklist, as on the internet."""
    with lab(LabOptions(transport="veth")) as built:
        file = built.directory / "blocked.txt"
        file.write_text("".join(f"{line}\n" for line in BLOCKED.values()), encoding="ascii")
        configure(built, "[guard]\nbogons = false\n", f'[guard]\nbogons = true\nblocklists = ["{file}"]\n')
        yield jetplane_node(built)


def measure(made: Sequence[Contender], *, rounds: int, packets: int, say: Say) -> Iterator[Row]:
    """Time jetplane and the rivals in turn; rows for each flood."""
    nftables = next(contender for contender in made if contender.name == MASQUERADE)
    older = next(contender for contender in made if contender.name.startswith(IPTABLES))
    with guarded() as own, lab(LabOptions(transport="veth")) as bare, Floodings() as floodings:
        receive_frames(bare, UPLINK)
        for flood in floods(own):
            flooding = floodings.of(flood.whole(bytes(6)))
            ways = (
                jetplane_drops(own, flood.reasons), bare_drops(bare, flooding),
                nftables_drops(nftables, flood), _iptables_drops(older, flood),
            )  # fmt: skip
            with contextlib.ExitStack() as stack:
                targets = [stack.enter_context(way) for way in ways]
                yield from _compare(flood, flooding, targets, rounds, packets, say)


def _compare(
    flood: Flood, flooding: Flooding, targets: Sequence[Target], rounds: int, packets: int, say: Say
) -> Iterator[Row]:
    frames = {target.name: target.whole(flood) for target in targets}
    rates: dict[str, list[float]] = {target.name: [] for target in targets}
    for number in range(-1, rounds):  # the first one warms up
        for place in range(len(targets)):
            target = targets[(place + number) % len(targets)]
            flooding.aim(target.place, frames[target.name], flood.sources)
            found = flooding.send(packets, cpu=cores.source_core()).typical() / 1e6
            if number >= 0:
                rates[target.name].append(found)
    for target in targets:
        target.confirm(flood, packets * (rounds + 1))
    own = rates.pop(JETPLANE)
    rows = [compared("flood", flood.name, "Mpps dropped", own, rival, found) for rival, found in rates.items()]
    say(f"flood {flood.name}: {rows[0].jetplane} Mpps, " + ", ".join(f"{row.ratio} of {row.rival}" for row in rows))
    yield from rows


@contextlib.contextmanager
def jetplane_drops(own: Contender, reasons: Sequence[str]) -> Iterator[Target]:
    """jetplane's node, which counts by reason."""

    def total() -> int:
        counters = own.lab.node.report().counters
        return sum(counters[reason] for reason in reasons)

    before = total()
    yield Target(JETPLANE, own.lab, lambda: total() - before)


@contextlib.contextmanager
def bare_drops(built: Lab, flooding: Flooding) -> Iterator[Target]:
    """A node with a program that counts and drops."""
    before = flooding.dropped()
    with xdp(built.plan.node, UPLINK, flooding.bare_drop):
        yield Target(BARE, built, lambda: flooding.dropped() - before)


@contextlib.contextmanager
def xdp(namespace: str, interface: str, program: int) -> Iterator[None]:
    """A native XDP program on an interface for a while."""

    def attach(fd: int, replacing: int | None) -> None:
        with Links() as links:
            links.set_xdp(interface_index(interface), fd, "native", replacing=replacing)

    namespaces.inside(namespace, lambda: attach(program, None))
    try:
        yield
    finally:
        namespaces.inside(namespace, lambda: attach(-1, program))


@contextlib.contextmanager
def nftables_drops(contender: Contender, flood: Flood) -> Iterator[Target]:
    """A node with one rule at the device."""

    def total() -> int:
        rules = json.loads(nft(contender.lab, "-j", "list", "table", "netdev", "flood"))["nftables"]
        expressions = [part for item in rules if "rule" in item for part in item["rule"]["expr"]]
        return int(next(part["counter"]["packets"] for part in expressions if "counter" in part))

    nft(contender.lab, "-f", "-", text=_TABLE.format(device=UPLINK, match=flood.nft()))
    try:
        yield Target(NETDEV, contender.lab, total)
    finally:
        nft(contender.lab, "delete", "table", "netdev", "flood")


@contextlib.contextmanager
def _iptables_drops(contender: Contender, flood: Flood) -> Iterator[Target]:
    rule = ["PREROUTING", *flood.iptables(), "-j", "DROP"]

    def total() -> int:
        said = iptables(contender, flood.version, "-t", "raw", "-L", "PREROUTING", "-n", "-v", "-x")
        found = re.search(r"^ *(\d+) +\d+ +DROP", said, re.MULTILINE)
        return int(found[1]) if found else 0

    iptables(contender, flood.version, "-t", "raw", "-A", *rule)
    try:
        yield Target(_RAW, contender.lab, total)
    finally:
        iptables(contender, flood.version, "-t", "raw", "-D", *rule)
