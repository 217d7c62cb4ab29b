"""The entry of a multi-hop tunnel: WireGuard messages passed on to an exit node, and the answers passed back.

Beside it, on the same topology with one link, an XDP program that only asks for the next hop and forwards, and what
nftables can do: DNAT to the exit node and masquerade. Everybody's packets come and go by that link.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench import cores
from bench.contenders import JETPLANE, configure, nft, receive_frames, receive_frames_at
from bench.flood import ANYBODY, xdp
from bench.forwarding import FIRST_SITE, LOST, TRIES, Say
from bench.frames import DISCARD_PORT, Arrived, Template, template
from bench.results import Row, compared
from bench.traffic import Place, Traffic
from jetplane.errors import JetplaneError
from jetplane.lab import namespaces
from jetplane.lab.addresses import NODE_IPV4, NODE_IPV6, TO_NODE, UPLINK, LabOptions
from jetplane.lab.links import hardware_address
from jetplane.lab.topology import Lab, lab

BARE, NFTABLES = "bare XDP that forwards", "nftables DNAT and masquerade"
SESSIONS = 1000

_NODE = {4: str(NODE_IPV4.ip), 6: str(NODE_IPV6.ip)}
_LISTEN = {4: DISCARD_PORT, 6: DISCARD_PORT + 1}
"""Where the entry listens for the exit node of each family, which is the first site, at the discard port."""
_INITIATION, _DATA = b"\1\0\0\0" + bytes(144), b"\4\0\0\0" + bytes(28)
_LEAD = 4
_SLOWLY = 64

_RELAY = """\
[relay]
to = [
    {{ listen_port = {four}, exit = "{site4}:{port}" }},
    {{ listen_port = {six}, exit = "[{site6}]:{port}" }},
]

[metrics]
"""
_RULES = """
table inet relay {{
    chain prerouting {{
        type nat hook prerouting priority dstnat
        ip daddr {node4} udp dport {four} dnat ip to {site4}:{port}
        ip6 daddr {node6} udp dport {six} dnat ip6 to [{site6}]:{port}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        oifname "{uplink}" masquerade
    }}
}}
"""


def _text(form: str) -> str:
    return form.format(
        four=_LISTEN[4], six=_LISTEN[6], site4=FIRST_SITE[4], site6=FIRST_SITE[6], port=DISCARD_PORT,
        node4=_NODE[4], node6=_NODE[6], uplink=UPLINK,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry node. `translates`: to the exit node, packets come from the node and not from the client."""

    name: str
    lab: Lab
    translates: bool = True


@contextlib.contextmanager
def entries() -> Iterator[tuple[Entry, Entry, Entry]]:
    """jetplane's and the rivals', without programs on the way yet."""
    with contextlib.ExitStack() as stack:
        built = [stack.enter_context(lab(LabOptions(transport="veth"))) for _ in range(3)]
        for made in built:
            receive_frames(made, UPLINK)
        _start(built[0])
        for made in built[1:]:
            sysctls = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}
            sysctls |= {f"ipv4/conf/{interface}/send_redirects": 0 for interface in ("all", UPLINK)}
            namespaces.write_sysctls(made.plan.node, sysctls)
        nft(built[2], "-f", "-", text=_text(_RULES))
        yield Entry(JETPLANE, built[0]), Entry(BARE, built[1], translates=False), Entry(NFTABLES, built[2])


def _start(built: Lab) -> None:
    configure(built, "[metrics]\n", _text(_RELAY))
    configure(built, "[guard]\n", "[guard]\nhandshakes_per_second = 0\n")
    built.start()


class Course:
    """An entry with a source and a sink at the far end of its link, for one family. A context manager."""

    def __init__(self, entry: Entry, version: int) -> None:
        self.entry, self._version = entry, version
        self._place = Place(entry.lab.plan.internet, TO_NODE)
        self._listens = _LISTEN[version] if entry.translates else DISCARD_PORT
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as failing:
            failing.callback(self._stack.close)
            self._openings, self._data = (self._traffic(len(message)) for message in (_INITIATION, _DATA))
            self._attach()
            failing.pop_all()

    def __enter__(self) -> Course:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _traffic(self, payload: int) -> Traffic:
        traffic = Traffic(self._version, payload=payload, lead=_LEAD, from_port=self._listens)
        self._stack.callback(traffic.close)
        return traffic

    def _attach(self) -> None:
        """A link takes what XDP sends back into it only where a program runs at the far end, too (veth_xdp_flush)."""
        plan, traffic = self.entry.lab.plan, self._data
        if self.entry.name == NFTABLES:
            receive_frames_at(self._place)
            return
        self._stack.enter_context(xdp(plan.internet, TO_NODE, traffic.nothing_xdp))
        if self.entry.name == BARE:
            self._stack.enter_context(xdp(plan.node, UPLINK, traffic.bare_forward))

    def check(self) -> None:
        """Begin every session; see that each message is passed on and back as it should. Raises JetplaneError."""
        node, site, client = _NODE[self._version], FIRST_SITE[self._version], ANYBODY[self._version]
        self._wake()
        self._send_slowly(self._openings, _INITIATION, returning=False)
        out = self._sample(returning=False)
        seen = self._data.origins(SESSIONS)
        if self.entry.translates:
            self._expect("where packets come from", {address for address, _ in seen}, {node})
            self._expect("ports of the sessions", len(seen), SESSIONS)
        self._expect("where they go", (out.destination, out.destination_port), (site, DISCARD_PORT))
        back = self._sample(returning=True)
        listens = (node if self.entry.translates else site, self._listens)
        self._expect("where answers come from", (back.source, back.source_port), listens)
        clients = {str(ipaddress.ip_address(client) + number) for number in range(SESSIONS)}
        self._expect("whether they go to a client", back.destination in clients, True)

    def rate(self, packets: int, *, returning: bool) -> float:
        """Send so many messages of all sessions in turn; return how many millions a second were delivered."""
        self._prepare(self._data, _DATA, returning=returning)
        for _ in range(TRIES):
            before = self._data.settled()
            timing = self._data.send(self._place, packets, cpu=cores.source_core())
            delivered = self._data.settled() - before
            if delivered > (1 - LOST) * packets:
                return timing.typical() / 1e6
        raise JetplaneError(f"bench: {self.entry.name}: {delivered} of {packets} messages came through the relay")

    def _wake(self) -> None:
        """Let the node find its neighbour."""
        self._prepare(self._openings, _INITIATION, returning=False)
        for _ in range(100):
            before = self._data.settled()
            self._openings.send(self._place, 1, cpu=cores.source_core())
            if self._data.settled() > before:
                return
        raise JetplaneError(f"bench: {self.entry.name}: nothing comes through the relay")

    def _sample(self, *, returning: bool) -> Arrived:
        """One message of each session; what one of them was like when it arrived."""
        self._data.want_sample()
        self._send_slowly(self._data, _DATA, returning=returning)
        return self._data.sample()

    def _send_slowly(self, traffic: Traffic, message: bytes, *, returning: bool) -> None:
        """Send one of each session, a few at a time; every one must arrive."""
        self._prepare(traffic, message, returning=returning)
        before = self._data.settled()
        for sent in range(0, SESSIONS, _SLOWLY):
            traffic.send(self._place, min(_SLOWLY, SESSIONS - sent), cpu=cores.source_core())
        self._expect("messages that came through", self._data.settled() - before, SESSIONS)

    def _prepare(self, traffic: Traffic, message: bytes, *, returning: bool) -> None:
        self._data.attach_sink(self._place, outside=not returning)
        made = self._template(message, returning)
        traffic.prepare(self._place, made, SESSIONS, returning=returning, insides=SESSIONS)

    def _template(self, message: bytes, returning: bool) -> Template:
        plan, site = self.entry.lab.plan, FIRST_SITE[self._version]
        there = _NODE[self._version] if self.entry.translates else site
        return template(
            to_mac=hardware_address(plan.node, UPLINK),
            from_mac=hardware_address(plan.internet, TO_NODE),
            source=site if returning else ANYBODY[self._version],
            destination=None if returning else there,
            source_port=DISCARD_PORT if returning else 0,
            destination_port=0 if returning else self._listens,
            payload=message,
        )

    def _expect(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            raise JetplaneError(f"bench: {self.entry.name}: relay: {what}: {found} instead of {expected}")


def measure(*, rounds: int, packets: int, say: Say) -> Iterator[Row]:
    """Time the entries in turn; rows for each family, way and rival."""
    with entries() as made:
        for version in (4, 6):
            with contextlib.ExitStack() as stack:
                courses = [stack.enter_context(Course(entry, version)) for entry in made]
                for course in courses:
                    course.check()
                for returning in (False, True):
                    yield from _compare(courses, version, returning, rounds, packets, say)


def _compare(
    courses: Sequence[Course], version: int, returning: bool, rounds: int, packets: int, say: Say
) -> Iterator[Row]:
    rates: dict[str, list[float]] = {course.entry.name: [] for course in courses}
    for number in range(-1, rounds):  # the first one warms up
        for place in range(len(courses)):
            course = courses[(place + number) % len(courses)]
            found = course.rate(packets, returning=returning)
            if number >= 0:
                rates[course.entry.name].append(found)
    way = "from the exit node" if returning else "to the exit node"
    name = f"IPv{version} {way}, {SESSIONS:,} sessions"
    own = rates.pop(JETPLANE)
    rows = [compared("relay", name, "Mpps", own, rival, found) for rival, found in rates.items()]
    say(f"relay {name}: {rows[0].jetplane} Mpps, " + ", ".join(f"{row.ratio} of {row.rival}" for row in rows))
    yield from rows
