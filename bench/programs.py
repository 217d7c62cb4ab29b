"""What each program costs: in live traffic, as the kernel counts it, and by verdict, in repeated runs."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import cores
from bench.contenders import Contender
from bench.forwarding import FIRST_SITE, Course, Say, Scenario
from bench.frames import datagram
from bench.results import Row, alone, compared
from bench.traffic import Traffic
from jetplane.dataplane import bpf
from jetplane.dataplane.run import SkbContext, XdpContext, prog_test_run
from jetplane.errors import JetplaneError
from jetplane.lab import namespaces
from jetplane.lab.addresses import NODE_IPV4, UPLINK
from jetplane.lab.links import hardware_address
from jetplane.network import interface_index

_INFO_BY_FD, _ENABLE_STATS = 15, 32
_RUN_TIME_AT = 192
"""Of run_time_ns and run_cnt, two u64, in struct bpf_prog_info (linux/bpf.h)."""
_REPEAT = 200_000
_XDP_DROP, _XDP_PASS, _TC_OK = 1, 2, 0


class _ProgInfo(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint8 * 232),)


class _InfoByFd(ctypes.Structure):
    _fields_ = (("bpf_fd", ctypes.c_uint32), ("info_len", ctypes.c_uint32), ("info", ctypes.c_uint64))


class _EnableStats(ctypes.Structure):
    _fields_ = (("type", ctypes.c_uint32),)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A packet that a program is run on again and again. It must leave the packet as it was."""

    name: str
    program: str
    packet: bytes
    verdict: int


def in_traffic(course: Course, *, rounds: int, packets: int, say: Say) -> Iterator[Row]:
    """Rows of the attached programs, while they forward 1,000 flows. Counting itself adds a clock read, some 20 ns."""
    programs = {
        name: bpf.obj_get(_pin(course.contender, name)) for name in ("nat_out", "leak_guard", "guard", "nat_in")
    }
    try:
        for version in (4, 6):
            for returning, names in ((False, ("nat_out", "leak_guard")), (True, ("guard", "nat_in"))):
                scenario = Scenario(version, returning, 1000, cores.ONE_CORE)
                found: dict[str, list[float]] = {name: [] for name in names}
                for _ in range(rounds):
                    with bpf.opened(bpf.checked(bpf.call(_ENABLE_STATS, _EnableStats()), "counting run times")):
                        before = {name: _run_time(programs[name]) for name in names}
                        course.rate(scenario, packets)
                        after = {name: _run_time(programs[name]) for name in names}
                    for name in names:
                        nanoseconds, runs = (b - a for a, b in zip(before[name], after[name], strict=True))
                        found[name].append(nanoseconds / runs)
                for name, values in found.items():
                    row = alone("program in traffic", f"{name}, IPv{version}, 1,000 flows", "ns/packet", values)
                    say(f"{row.metric}: {row.jetplane} ns")
                    yield row
    finally:
        for fd in programs.values():
            os.close(fd)


def by_verdict(course: Course, *, rounds: int, say: Say) -> Iterator[Row]:
    """Rows of single verdicts, beside an empty program of the same type run in the same way."""
    contender = course.contender
    empty = Traffic(4)
    try:
        for row in _verdicts(course):
            fd = bpf.obj_get(_pin(contender, row.program))
            with bpf.opened(fd):
                rest = empty.nothing_xdp if row.program == "guard" else empty.nothing_tc
                pairs = [(_time(contender, fd, row), _time(contender, rest, row, check=False)) for _ in range(rounds)]
            name = f"{row.program}, {row.name}"
            own, rival = ([pair[which] for pair in pairs] for which in (0, 1))
            made = compared("program by verdict", name, "ns/run", own, "empty program", rival)
            say(f"{made.metric}: {made.jetplane} ns, empty {made.rival_value} ns")
            yield made
    finally:
        empty.close()


def _verdicts(course: Course) -> Iterator[Verdict]:
    plan = course.contender.lab.plan
    mac, port = hardware_address(plan.node, UPLINK), plan.tunnels[0].listen_port
    node, site = str(NODE_IPV4.ip), FIRST_SITE[4]
    address, bound = min(course.origins(4, 1000))

    def packet(destination: str, to: int, payload: bytes, source: str = site, source_port: int = 9) -> bytes:
        return datagram(mac, source, destination, source_port, to, payload)

    handshake, data = b"\1\0\0\0" + bytes(144), b"\4\0\0\0" + bytes(124)
    yield Verdict("drops what has no binding", "guard", packet(address, 1023, bytes(18)), _XDP_DROP)
    yield Verdict("drops what is no WireGuard message", "guard", packet(node, port, bytes(18)), _XDP_DROP)
    yield Verdict("drops a handshake beyond its budget", "guard", packet(node, port, handshake), _XDP_DROP)
    yield Verdict("passes data of WireGuard", "guard", packet(node, port, data), _XDP_PASS)
    yield Verdict("passes what has a binding", "guard", packet(address, bound, bytes(18)), _XDP_PASS)
    yield Verdict("passes an exit address", "leak_guard", packet(site, 9, bytes(18), address, bound), _TC_OK)


def _time(contender: Contender, fd: int, row: Verdict, *, check: bool = True) -> float:
    """Nanoseconds of one run, on the core that sends."""

    def work() -> float:
        os.sched_setaffinity(0, {cores.source_core()})
        index = interface_index(UPLINK)
        context: XdpContext | SkbContext = SkbContext(ingress_ifindex=index)  # as what the node forwards
        if row.program == "guard":
            context = XdpContext(data_end=len(row.packet), ingress_ifindex=index)
        ran = prog_test_run(fd, row.packet, context, repeat=_REPEAT)
        if check and (ran.verdict != row.verdict or ran.packet != row.packet):
            raise JetplaneError(f"bench: {row.program}, {row.name}: verdict {ran.verdict}: nothing is measured")
        return float(ran.nanoseconds)

    return namespaces.inside(contender.lab.plan.node, work)


def _pin(contender: Contender, name: str) -> Path:
    found = list((contender.lab.node.run_directory / "bpf").glob(f"programs-*/{name}"))
    if len(found) != 1:
        raise JetplaneError(f"bench: {name} is pinned {len(found)} times on jetplane's node")
    return found[0]


def _run_time(fd: int) -> tuple[int, int]:
    """Nanoseconds and runs since run times are counted."""
    info = _ProgInfo()
    bpf.checked(bpf.call(_INFO_BY_FD, _InfoByFd(fd, ctypes.sizeof(info), bpf.pointer(info))), "asking about a program")
    nanoseconds, runs = struct.unpack_from("=QQ", bytes(info.bytes), _RUN_TIME_AT)
    return nanoseconds, runs
