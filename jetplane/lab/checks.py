"""The demo's checks in the order of its story: a node at work, attacks on it, its controller's death, its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jetplane.lab import abuse, endurance, use
from jetplane.lab.stage import Check, Stage


def _for_everyone(name: str, work: Callable[[Stage, int, int], str]) -> Iterator[Check]:
    """One check for each subscriber and family."""
    for subscriber in range(2):
        for family in (4, 6):

            def bound(stage: Stage, subscriber: int = subscriber, family: int = family) -> str:
                return work(stage, subscriber, family)

            yield Check(name.format(subscriber=subscriber + 1, family=family), bound)


CHECKS: tuple[Check, ...] = (
    Check("the capture sees a planted leak", abuse.capture_works),
    Check("the node starts from its configuration file", endurance.node_starts, vital=True),
    Check("metrics name nobody before any traffic", abuse.metrics_tell_nothing),
    *_for_everyone("subscriber {subscriber} downloads over IPv{family}", use.downloads),
    *_for_everyone("subscriber {subscriber} pings over IPv{family}", use.pings),
    *_for_everyone("subscriber {subscriber} sends UDP over IPv{family}", use.echoes),
    *_for_everyone("subscriber {subscriber} traces the way over IPv{family}", use.traces),
    *_for_everyone("the site sees subscriber {subscriber} as the exit over IPv{family}", use.each_side),
    Check("a subscriber goes by an entry node, which sees no site", use.goes_by_entry),
    Check("no site ever saw an inner or outer address", use.sites_saw_exits_only),
    Check("garbage at the WireGuard port is dropped", abuse.garbage_is_dropped),
    Check("unsolicited packets to an exit address are dropped", abuse.unsolicited_is_dropped),
    Check("the node answers nobody it need not", abuse.node_is_silent),
    Check("the leak guard stops an untranslated packet", abuse.leak_guard_works),
    Check("traffic goes on after kill -9 of the controller", endurance.survives_controller),
    Check("a new controller takes over unnoticed", endurance.restart_is_unnoticed),
    Check("a revoked peer is cut off in mid-flow", endurance.revoking_cuts_off),
    Check("status is right", endurance.status_is_right),
    Check("metrics name nobody after it all", abuse.metrics_tell_nothing),
    Check("nothing leaked", abuse.nothing_leaked),
    Check("jetplane down leaves the node as it was", endurance.down_leaves_nothing),
)
