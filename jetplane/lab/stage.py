"""What the demo's checks share: the lab, what was seen so far, and what a check is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from jetplane.errors import JetplaneError
from jetplane.lab import capture, snapshot, traffic
from jetplane.lab.addresses import SITES_IPV4, SITES_IPV6
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience

BURST = 23
"""How many packets are sent where a number must come back exactly."""

SITES = {4: SITES_IPV4[0], 6: SITES_IPV6[0]}


class Failed(JetplaneError):
    """A check did not hold; the message says what was seen."""


def require(holds: bool, seen: str) -> None:
    """Raise Failed with what was seen unless it is right."""
    if not holds:
        raise Failed(seen)


@dataclass(frozen=True, slots=True)
class Seen:
    """One flow as each side saw it."""

    subscriber: int
    inner: str  # the subscriber's own address in the tunnel
    outer: str  # its provider's address, which only the node's outer side sees
    exit_address: str  # what the wire between node and internet showed
    site: str
    told: str  # what the site said when it was asked who is there


@dataclass(slots=True)
class Stage:
    """What the checks share."""

    lab: Lab
    size: int  # bytes of a download
    watch: capture.LeakWatch
    before: snapshot.Snapshot = field(default_factory=dict)  # the node's namespace, before the node
    series: frozenset[str] = frozenset()  # names of the metric series, at first sight
    seen: list[Seen] = field(default_factory=list)

    def visit(self, subscriber: int, family: int) -> traffic.Visit:
        """From a subscriber, counted from 0, to the first site of a family."""
        return traffic.Visit(self.lab.name, self.lab.plan.subscribers[subscriber].namespace, SITES[family])

    def exits(self, family: int) -> tuple[str, ...]:
        """The node's exit addresses of a family."""
        return self.lab.plan.exit_ipv4 if family == 4 else self.lab.plan.exit_ipv6

    def counter(self, name: str) -> int:
        """One of the node's counters."""
        return self.lab.node.report().counters[name]

    def rise(self, name: str, before: int, expected: int) -> int:
        """How much a counter has risen, once it has risen by what is expected or long enough was waited."""
        deadline = time.monotonic() + patience(2)
        while (rise := self.counter(name) - before) < expected and time.monotonic() < deadline:
            time.sleep(0.05)
        return rise


Work = Callable[[Stage], str]


@dataclass(frozen=True, slots=True)
class Check:
    """A name, and the work that returns what was seen or raises."""

    name: str
    work: Work
    vital: bool = False  # when it fails, nothing after it can be tried
