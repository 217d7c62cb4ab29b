"""What may happen to a NAT, as hypothesis draws it: packets out and in, errors, time, and the controller's changes.

A step names a binding by its number in the order they were made, because ports are the programs' choice.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from tests.bpf.model.packets import End, Protocol
from tests.bpf.nat_frames import KINDS
from tests.bpf.nat_world import EXIT, EXIT_2, INNER, INNER_2, NODE, OTHER, SITE, STRANGER, TUNNEL

INNER_3 = {4: "10.65.0.3", 6: "fd01::3"}
"""A subscriber in the other tunnel."""
SUBSCRIBERS = (INNER, INNER_2, INNER_3, STRANGER)
PORTS = (40000, 40001, 5060, 999, 1, 0)
THIRD = {4: "192.88.1.1", 6: "2001:db8:77::1"}
FOURTH = {4: "100.128.0.1", 6: "2a00::1"}
FIFTH = {4: "8.8.8.8", 6: "2600::5"}
SITES = (SITE, OTHER, THIRD, FOURTH, FIFTH)
SITE_PORTS = (443, 80)
DENIED = ({4: "192.168.7.7", 6: "fdaa::9"}, {4: "100.99.0.1", 6: "64:ff9b::a00:1"})
"""By the policy that is the default."""
REFUSED = (NODE, TUNNEL, INNER_2, {4: "127.0.0.1", 6: "::1"}, {4: "224.0.0.9", 6: "ff02::9"}, *DENIED, EXIT, EXIT_2)
"""Not sites. The last two are: somebody's exit address, at a port that hardly anybody holds."""
SIZES = (0, 1, 7, 8, 513, 1372, 1380, 1392, 1393, 1400)


@dataclass(frozen=True, slots=True)
class Look:
    """What a packet looks like, beyond its ends."""

    ttl: int = 64
    flags: str = "A"
    mss: int | None = None
    size: int = 7
    summed: bool = True


@dataclass(frozen=True, slots=True)
class Out:
    """A subscriber sends to a site; `wrong`: by the other tunnel, or an answer where a query belongs."""

    version: int
    protocol: Protocol
    subscriber: int
    port: int
    site: int
    site_port: int
    look: Look
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class OutElsewhere:
    """A subscriber sends to where nobody may, or to an exit address."""

    version: int
    protocol: Protocol
    subscriber: int
    port: int
    target: int
    look: Look


@dataclass(frozen=True, slots=True)
class Hairpin:
    """A subscriber sends to the exit address and port of a binding."""

    binding: int
    subscriber: int
    port: int
    look: Look


@dataclass(frozen=True, slots=True)
class In:
    """A site sends to a binding's port; `wrong`: to the port beside it, to the other protocol, a query."""

    binding: int
    site: int
    site_port: int
    look: Look
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class ErrorIn:
    """A router's error about a packet that left, or did not; `wrong`: what does not fit."""

    binding: int
    site: int
    site_port: int
    router: int
    kind: int
    quoted: int | None
    look: Look
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class ErrorOut:
    """A subscriber's error about a packet that was let in, or was not."""

    binding: int
    site: int
    site_port: int
    kind: int
    quoted: int | None
    look: Look
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Burst:
    """Many ports of one subscriber at once."""

    version: int
    protocol: Protocol
    subscriber: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: int


@dataclass(frozen=True, slots=True)
class Change:
    """The controller removes a subscriber, lets it return, renews it, or gives it the other exit address."""

    subscriber: int
    how: str


@dataclass(frozen=True, slots=True)
class Sweep:
    pass


Step = Out | OutElsewhere | Hairpin | In | ErrorIn | ErrorOut | Burst | Wait | Change | Sweep

bindings = st.integers(0, 3)
subscribers = st.sampled_from((0, 0, 0, 0, 1, 1, 2, 3))
ports = st.sampled_from((0, 0, 0, 1, 2, 3, 4, 5))
sites = st.sampled_from((0, 0, 0, 1, 1, 2, 3, 4))
site_ports = st.sampled_from((0, 0, 1))
kinds = st.integers(0, KINDS - 1)
quotes = st.sampled_from((8, 12, 20, None))
looks = st.builds(
    Look,
    ttl=st.sampled_from((64, 64, 64, 64, 2, 1, 0)),
    flags=st.sampled_from(("S", "SA", "A", "A", "FA", "FA", "R", "RA", "PA", "")),
    mss=st.sampled_from((None, None, 536, 1360, 1380, 1400, 65535)),
    size=st.sampled_from((7, 7, 7, *SIZES)),
    summed=st.sampled_from((True, True, False)),
)


def wrong(*ways: str) -> st.SearchStrategy[str]:
    return st.sampled_from(("",) * 4 * len(ways) + ways)


def stories(version: int, protocol: Protocol) -> st.SearchStrategy[list[Step]]:
    """Mostly of one family and protocol, so that steps have to do with each other."""
    versions = st.sampled_from((version, version, version, 10 - version))
    protocols = st.sampled_from((*(protocol,) * 5, "tcp", "udp", "icmp"))
    outs = st.builds(Out, versions, protocols, subscribers, ports, sites, site_ports, looks, wrong("tunnel", "reply"))
    refused = st.integers(0, len(REFUSED) - 1)
    elsewhere = st.builds(OutElsewhere, versions, protocols, subscribers, ports, refused, looks)
    hairpins = st.builds(Hairpin, bindings, subscribers, ports, looks)
    ins = st.builds(In, bindings, sites, site_ports, looks, wrong("port", "protocol", "query"))
    misfits = wrong("port", "destination", "direction")
    errors_in = st.builds(ErrorIn, bindings, sites, site_ports, sites, kinds, quotes, looks, misfits)
    misfits = wrong("port", "source", "direction")
    errors_out = st.builds(ErrorOut, bindings, sites, site_ports, kinds, quotes, looks, misfits)
    bursts = st.builds(Burst, versions, protocols, st.integers(0, 1), st.sampled_from((0, 2000)), st.integers(60, 70))
    waits = st.builds(Wait, st.sampled_from((60, 60, 120, 180, 240, 300, 1200, 7440)))
    changes = st.builds(Change, st.sampled_from((0, 0, 1, 2)), st.sampled_from(("remove", "return", "renew", "move")))
    packets = st.one_of(outs, outs, outs, ins, ins, ins, hairpins, errors_in, errors_out, elsewhere)
    others = st.one_of(waits, waits, waits, changes, changes, st.just(Sweep()), bursts)
    return st.lists(st.one_of(packets, packets, packets, others), min_size=12, max_size=40)


THEMES: tuple[tuple[int, Protocol], ...] = tuple((v, p) for v in (4, 6) for p in ("tcp", "tcp", "udp", "icmp"))
steps = st.sampled_from(THEMES).flatmap(lambda theme: stories(*theme))


def inner_end(version: int, subscriber: int, port: int) -> End:
    return End(SUBSCRIBERS[subscriber][version], PORTS[port])


def site_end(version: int, site: int, port: int) -> End:
    return End(SITES[site][version], SITE_PORTS[port])
