"""Bindings: how many can be made in a second, what a million of them cost a packet, and how much memory one takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import cores
from bench.contenders import FORWARDING, JETPLANE, MASQUERADE, Contender, jetplane_node
from bench.forwarding import Course, Say, Scenario
from bench.results import Row, alone, compared
from jetplane.dataplane import bpf
from jetplane.errors import JetplaneError
from jetplane.lab.addresses import LabOptions
from jetplane.lab.topology import lab

MANY = 1 << 20
_MANY_SUBSCRIBERS, _MANY_EXITS = 1024, 24
_FRESH = 5000
"""Bindings made in one measurement: by five subscribers that have not sent before."""
_BULK = 50_000
_LIVE_MAPS = ("bindings", "endpoints")
"""Where a binding with up to three remotes has an entry each."""


def fresh(courses: Sequence[Course], *, rounds: int, say: Say) -> Iterator[Row]:
    """Each packet is the first of its flow. The contenders take turns; plain forwarding has nothing to make."""
    making = [course for course in courses if course.contender.name != FORWARDING]
    rates: dict[str, list[float]] = {course.contender.name: [] for course in making}
    for number in range(rounds):
        for place in range(len(making)):
            course = making[(place + number) % len(making)]
            rates[course.contender.name].append(course.rate_fresh(5, _FRESH))
    own = rates.pop(JETPLANE)
    for rival, found in rates.items():
        row = compared("new bindings", "IPv4 UDP, one core", "million/s", own, rival, found)
        say(f"new bindings: {row.jetplane} million/s, {row.ratio} of {rival}")
        yield row


def memory(courses: Sequence[Course], *, say: Say) -> Iterator[Row]:
    """Bytes of kernel memory for one binding in use: jetplane's by its maps, the rival's by what slabs grow."""
    own = next(course.contender for course in courses if course.contender.name == JETPLANE)
    rival = next(course for course in courses if course.contender.name == MASQUERADE)
    maps = _map_bytes(own)
    each = sum(size / entries for name, (size, entries) in maps.items() if name in _LIVE_MAPS)
    before = _slab_bytes()
    rival.rate_fresh(50, _BULK, tries=1)
    grown = (_slab_bytes() - before) / _BULK
    yield compared("memory", "one binding in use", "bytes", [each], MASQUERADE, [grown])
    for name, (size, entries) in maps.items():
        if name in (*_LIVE_MAPS, "remotes"):
            yield alone("memory", f"map {name}, an entry of {entries:,}", "bytes", [size / entries])
    total = sum(size for size, _ in maps.values()) / (1 << 20)
    row = alone("memory", f"all maps, allocated at start, {len(own.sources[4]) if own.sources else 0} exits a family",
                "MiB", [total])  # fmt: skip
    say(f"memory: {each:.0f} bytes a binding, the rival {grown:.0f}")
    yield row


def million(*, rounds: int, say: Say) -> Iterator[Row]:
    """A million bindings made by real packets, against one, on the same node in turn."""
    options = LabOptions(transport="veth", peers=2 * _MANY_SUBSCRIBERS, exit_addresses=_MANY_EXITS)
    with lab(options) as built:
        contender = jetplane_node(built, max_bindings=MANY + MANY // 8)
        course = Course(contender)
        try:
            course.check(4, 1000)
            many, one = (Scenario(4, returning=False, flows=flows, cores=cores.ONE_CORE) for flows in (MANY, 1))
            course.rate(many, MANY)
            created = contender.lab.node.status()["counters"]["BINDINGS_CREATED"]
            if created < MANY:
                raise JetplaneError(f"bench: {created} bindings were made instead of {MANY}")
            say(f"{created:,} bindings made")
            pairs = [(1000 / course.rate(many, MANY), 1000 / course.rate(one, MANY // 4)) for _ in range(rounds)]
        finally:
            course.close()
    row = compared("a million bindings", f"IPv4 to the internet, {MANY:,} flows, one core", "ns/packet",
                   [a for a, _ in pairs], "jetplane, 1 flow", [b for _, b in pairs])  # fmt: skip
    say(f"a million bindings: {row.jetplane} ns a packet, {row.ratio} of that with one")
    yield row


def _map_bytes(contender: Contender) -> dict[str, tuple[int, int]]:
    """Memory and entries of every map of jetplane's node."""
    found: dict[str, tuple[int, int]] = {}
    for path in (contender.lab.node.run_directory / "bpf").glob("maps-*/*"):
        with bpf.opened(bpf.obj_get(path)) as fd:
            lines = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        found[path.name] = int(fields["memlock"]), int(fields["max_entries"])
    if not set(_LIVE_MAPS) <= found.keys():
        raise JetplaneError("bench: jetplane's node has no maps pinned")
    return found


def _slab_bytes() -> int:
    """What all slabs of the kernel take: slabinfo(5)."""
    total = 0
    for line in Path("/proc/slabinfo").read_text(encoding="ascii").splitlines()[2:]:
        fields = line.split()
        slabs = fields[fields.index("slabdata") + 2]
        total += int(slabs) * int(fields[5]) * os.sysconf("SC_PAGE_SIZE")
    return total
