"""Forwarding of the smallest packets: jetplane, plain forwarding and nftables masquerade, in turn, round by round."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench import cores
from bench.contenders import FORWARDING, JETPLANE, Contender
from bench.frames import DISCARD_PORT, FIRST_PORT, Arrived, Template, template
from bench.results import Row, compared
from bench.traffic import Place, Traffic
from jetplane.errors import JetplaneError
from jetplane.lab.addresses import SITES_IPV4, TO_NODE, UPLINK
from jetplane.lab.links import hardware_address

FIRST_SITE = {4: "10.0.0.1", 6: "2001:db8:1::1"}
"""They follow one another. Behind the lab's internet, which need not have them: packets are dropped on its doorstep."""
_CROWD = 64
"""Subscribers that take part in the scenarios of many flows; those after them have not sent yet."""
_TTL_AFTER = range(127, 255)
"""The source sends 128 to 255; a router takes one away."""
_MERGED = 0.01
"""More than this part merged by GRO, and a packet is no longer a packet."""
LOST = 0.001
"""On one core nothing overruns anything: what is lost is the machine's doing, and the measurement is made again."""
TRIES = 5
_SLOWLY = 64
"""Packets sent at once while bindings and neighbours are made; every one of them must arrive."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is sent, and on which cores."""

    version: int
    returning: bool
    flows: int
    cores: str

    @property
    def insides(self) -> int:
        """How many subscribers share the flows: up to 1,024 each, half of a quota."""
        return -(-self.flows // 1024)

    @property
    def sites(self) -> int:
        """How many sites they go to: one each up to 4,096."""
        return min(self.flows, 4096)

    def __str__(self) -> str:
        way = "from the internet" if self.returning else "to the internet"
        flows = "1 flow" if self.flows == 1 else f"{self.flows:,} flows"
        return f"IPv{self.version} {way}, {flows}, {self.cores}"


SCENARIOS = tuple(
    Scenario(version, returning, flows, placement)
    for placement in (cores.ONE_CORE, cores.TWO_CORES)
    for version, returning, flows in (  # no more than 1,000 in IPv6: neighbours do not answer for whole prefixes
        (4, False, 1),
        (4, False, 1000),
        (4, True, 1000),  # what comes back comes to whoever sent last: one subscriber, and below 49 of them
        (4, False, 50_000),
        (4, True, 50_000),
        (6, False, 1000),
        (6, True, 1000),
    )
)


class Bare:
    """Source and sink with one link between them and no node: what is subtracted to see the node's own part."""

    def __init__(self, contender: Contender) -> None:
        plan = contender.lab.plan
        subscriber = plan.subscribers[1]
        self._place = Place(subscriber.namespace, subscriber.interface)
        far_end = Place(plan.node, plan.tunnels[subscriber.tunnel].name)
        self._traffic = Traffic(4)
        self._traffic.attach_sink(far_end, outside=True)
        self._template = template(
            to_mac=hardware_address(far_end.namespace, far_end.interface),
            from_mac=hardware_address(self._place.namespace, self._place.interface),
            source=str(subscriber.inner_ipv4),
            destination=SITES_IPV4[0],
            destination_port=DISCARD_PORT,
        )

    def close(self) -> None:
        """Free the programs."""
        self._traffic.close()

    def rate(self, packets: int) -> float:
        """Millions of packets a second, on one core."""
        self._traffic.prepare(self._place, self._template, 1000, returning=False)
        return self._traffic.send(self._place, packets, cpu=cores.source_core()).typical() / 1e6


class Course:
    """One contender with a source and a sink on either side of it."""

    def __init__(self, contender: Contender) -> None:
        plan = contender.lab.plan
        subscriber = plan.subscribers[0]
        self.contender = contender
        self._inside = Place(subscriber.namespace, subscriber.interface)
        self._outside = Place(plan.internet, TO_NODE)
        self._inner = {4: str(subscriber.inner_ipv4), 6: str(subscriber.inner_ipv6)}
        self._traffic = {version: Traffic(version) for version in (4, 6)}
        self._sinking = 0  # the version whose sinks are attached
        self._sent_before = 0  # so many subscribers have sent first packets

    def close(self) -> None:
        """Free the programs."""
        for traffic in self._traffic.values():
            traffic.close()

    def check(self, version: int, flows: int) -> None:
        """See that packets are translated, both ways, with checksums right and none lost. Raises JetplaneError."""
        out = self._sent(Scenario(version, returning=False, flows=flows, cores=""))
        expected = (self.contender.sources or {v: frozenset({inner}) for v, inner in self._inner.items()})[version]
        sites = self._sites(version, flows)
        origins = self.origins(version, flows)
        if out.source not in expected:
            self._expect("its source", out.source, " or ".join(sorted(expected)))
        self._expect("its destination is one of the sites'", out.destination in sites, True)
        self._expect("its destination port", out.destination_port, DISCARD_PORT)
        self._expect("addresses of the flows", {address for address, _ in origins}, {out.source})
        self._expect("ports of the flows", len(origins), flows)
        back = self._sent(Scenario(version, returning=True, flows=flows, cores=""))
        self._expect("its source on the way back is one of the sites'", back.source in sites, True)
        self._expect("its source port on the way back", back.source_port, DISCARD_PORT)
        self._expect("its destination on the way back", back.destination, self._inner[version])
        inner_ports = range(FIRST_PORT, FIRST_PORT + flows)
        self._expect("its port on the way back", back.destination_port in inner_ports, True)
        for arrived in (out, back):
            self._expect("its TTL", arrived.ttl in _TTL_AFTER, True)

    def _sites(self, version: int, count: int) -> frozenset[str]:
        first = ipaddress.ip_address(FIRST_SITE[version])
        return frozenset(str(first + number) for number in range(count))

    def rate(self, scenario: Scenario, packets: int) -> float:
        """Send so many packets; return how many millions a second were delivered."""
        for _ in range(TRIES):
            traffic, source = self._prepare(scenario)
            before, merged_before = traffic.settled(), traffic.merged()
            timing = traffic.send(source, packets, cpu=cores.source_core())
            delivered, merged = traffic.settled() - before, traffic.merged() - merged_before
            if merged > _MERGED * delivered:
                break
            if scenario.cores == cores.TWO_CORES and delivered:
                return timing.overall() * delivered / packets / 1e6
            if delivered > (1 - LOST) * packets:
                return timing.typical() / 1e6
        raise JetplaneError(
            f"bench: {self.contender.name}: {scenario}: {delivered} of {packets} packets came, {merged} merged by GRO"
        )

    def rate_fresh(self, insides: int, flows: int, *, tries: int = TRIES) -> float:
        """Send a packet each of so many flows of so many subscribers, none of which have been before.

        Returns how many millions a second were delivered; JetplaneError unless all of them were. When the node's queue
        was full for a moment, other subscribers' are tried.
        """
        scenario = Scenario(4, returning=False, flows=flows, cores=cores.ONE_CORE)
        traffic, source = self._prepare(scenario)
        delivered = 0
        for _ in range(tries):
            address = ipaddress.ip_address(self.contender.inside(4, 2)) + _CROWD + self._sent_before
            self._sent_before += insides
            made = self._template_out(4, str(address))
            traffic.prepare(source, made, flows, returning=False, insides=insides, sites=scenario.sites)
            before = traffic.settled()
            timing = traffic.send(source, flows, cpu=cores.source_core())
            delivered = traffic.settled() - before
            if delivered == flows:
                break
        self._expect("first packets", delivered, flows)
        return timing.typical() / 1e6

    def origins(self, version: int, flows: int) -> set[tuple[str, int]]:
        """The addresses and ports that the flows were last seen to come from."""
        return self._traffic[version].origins(flows)

    def _sent(self, scenario: Scenario) -> Arrived:
        """Send each flow once, a few at a time; every packet must arrive. Return one of them."""
        traffic, source = self._prepare(scenario)
        self._wake(traffic, source)
        if not scenario.returning:
            traffic.forget()
        traffic, source = self._prepare(scenario)
        traffic.want_sample()
        before = traffic.settled()
        for sent in range(0, scenario.flows, _SLOWLY):
            traffic.send(source, min(_SLOWLY, scenario.flows - sent), cpu=cores.source_core())
        self._expect(f"packets ({scenario})", traffic.settled() - before, scenario.flows)
        return traffic.sample()

    def _wake(self, traffic: Traffic, source: Place) -> None:
        """Let the node find its neighbours."""
        for _ in range(100):
            before = traffic.settled()
            traffic.send(source, 1, cpu=cores.source_core())
            if traffic.settled() > before:
                return
        raise JetplaneError(f"bench: {self.contender.name}: nothing comes through")

    def _prepare(self, scenario: Scenario) -> tuple[Traffic, Place]:
        traffic = self._traffic[scenario.version]
        if self._sinking != scenario.version:
            traffic.attach_sink(self._outside, outside=True)
            traffic.attach_sink(self._inside, outside=False)
            self._sinking = scenario.version
        source = self._outside if scenario.returning else self._inside
        traffic.prepare(
            source, self._template(scenario), scenario.flows,
            returning=scenario.returning, insides=scenario.insides, sites=scenario.sites,
        )  # fmt: skip
        return traffic, source

    def _template(self, scenario: Scenario) -> Template:
        node = self.contender.lab.plan.node
        site = FIRST_SITE[scenario.version]
        if scenario.returning:
            return template(
                to_mac=hardware_address(node, UPLINK),
                from_mac=hardware_address(self._outside.namespace, self._outside.interface),
                source=site,
                destination=None,
                source_port=DISCARD_PORT,
            )
        return self._template_out(scenario.version, self.contender.inside(scenario.version, scenario.insides))

    def _template_out(self, version: int, source: str) -> Template:
        return template(
            to_mac=hardware_address(self.contender.lab.plan.node, self.contender.tunnel),
            from_mac=hardware_address(self._inside.namespace, self._inside.interface),
            source=source,
            destination=FIRST_SITE[version],
            destination_port=DISCARD_PORT,
        )

    def _expect(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            raise JetplaneError(
                f"bench: {self.contender.name}: {what}: {found} instead of {expected}: nothing is measured"
            )


@dataclass(frozen=True, slots=True)
class Laid:
    """What there is to measure on."""

    courses: Sequence[Course]  # jetplane's first
    bare: Bare


@contextlib.contextmanager
def laid(contenders: Sequence[Contender]) -> Iterator[Laid]:
    """A course for each contender; the programs are freed afterwards."""
    with contextlib.ExitStack() as stack:
        made = []
        for contender in contenders:
            made.append(Course(contender))
            stack.callback(made[-1].close)
        bare = Bare(next(contender for contender in contenders if contender.name == FORWARDING))
        stack.callback(bare.close)
        yield Laid(made, bare)


def check(laid: Laid, say: Say) -> None:
    """See that every contender translates as it should. Raises JetplaneError: then nothing may be timed."""
    for course in laid.courses:
        for version in (4, 6):
            course.check(version, 1000)
        say(f"{course.contender.name}: translates as it should")


def measure(laid: Laid, placement: str, *, rounds: int, packets: int, say: Say) -> Iterator[Row]:
    """Time the contenders in turn; rows for each scenario and rival."""
    for scenario in SCENARIOS:
        if scenario.cores == placement:
            rows = _compare(laid, scenario, rounds, packets)
            say(f"{scenario}: {rows[0].jetplane} Mpps, " + ", ".join(f"{r.ratio} of {r.rival}" for r in rows[:2]))
            yield from rows


def _compare(laid: Laid, scenario: Scenario, rounds: int, packets: int) -> list[Row]:
    timed: list[tuple[str, Callable[[], float]]] = [
        (course.contender.name, functools.partial(course.rate, scenario, packets)) for course in laid.courses
    ]
    if scenario.cores == cores.ONE_CORE:
        timed.append(("", functools.partial(laid.bare.rate, packets)))
    rates: dict[str, list[float]] = {name: [] for name, _ in timed}
    for number in range(-1, rounds):  # the first one warms up
        for place in range(len(timed)):
            name, rate = timed[(place + number) % len(timed)]
            found = rate()
            if number >= 0:
                rates[name].append(found)
    bare = rates.pop("", [])
    own = rates.pop(JETPLANE)
    rows = [compared("forwarding", str(scenario), "Mpps", own, rival, found) for rival, found in rates.items()]
    if bare:
        rows += [
            compared("node's part", str(scenario), "ns/packet", _node_ns(own, bare), rival, _node_ns(found, bare))
            for rival, found in rates.items()
        ]
    return rows


def _node_ns(rates: Sequence[float], bare: Sequence[float]) -> list[float]:
    """Nanoseconds of a packet without those of source and sink."""
    return [1000 / rate - 1000 / without for rate, without in zip(rates, bare, strict=True)]
