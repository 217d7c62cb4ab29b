"""Runs the compiled programs on packets made up in the tests, through BPF_PROG_TEST_RUN (bpf(2)).

A `Case` is one row: a packet, the verdict, and the one reason it must be counted under. The same rows are
timed by the benches.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from jetplane import abi
from jetplane.config import Config
from jetplane.dataplane import bpf
from jetplane.dataplane.load import load
from jetplane.dataplane.maps import Map, possible_cpus
from jetplane.dataplane.programs import Program, ProgramType
from jetplane.dataplane.run import SkbContext, XdpContext, prog_test_run
from jetplane.dataplane.specialise import Facts, node_header
from jetplane.lab.waiting import slowness


class Xdp(IntEnum):
    """Verdicts of an XDP program (linux/bpf.h)."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


class Tc(IntEnum):
    """Verdicts of a classifier in direct-action mode (linux/pkt_cls.h)."""

    UNSPEC = 0xFFFFFFFF
    OK = 0
    SHOT = 2
    REDIRECT = 7


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a table: what goes in and what must come of it."""

    name: str
    packet: bytes
    verdict: Xdp | Tc
    counter: str | None = None
    """The name in drop_reasons.def or counters.def that must rise by one. No other drop reason may rise."""
    output: bytes | None = None
    """The packet afterwards; None: as it came. Not looked at when the packet is dropped."""
    mark: int = 0
    """skb->mark afterwards; tc only."""
    given: Callable[[Node], object] | None = field(default=None, repr=False)
    """Prepares the node: called before the packet."""

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


@dataclass(frozen=True, slots=True)
class Result:
    """What one run did."""

    verdict: int
    output: bytes
    counted: Mapping[str, int]
    """How much each counter rose; those that did not are left out."""
    mark: int
    nanoseconds: int
    """Mean duration of one run."""

    @property
    def dropped(self) -> str | None:
        """The drop reason that was counted. Fails when there is more than one, or one counted twice."""
        reasons = {name: n for name, n in self.counted.items() if name in abi.drop_reasons()}
        assert sum(reasons.values()) <= 1, f"counted: {reasons}"
        return next(iter(reasons), None)


def each(rows: Sequence[Case]) -> list[Any]:
    """Parameters for a test of rows: a row each; all at once on an emulated machine, where a test costs a second."""
    if slowness() > 5:
        return [pytest.param(tuple(rows), id="every-row")]
    return [pytest.param((row,), id=str(row)) for row in rows]


_MMAPABLE = 1 << 10  # linux/bpf.h

WITNESS = "HANDED_TO_STACK"
"""The counter that tells a witness where a packet was redirected to: nothing else counts for such a packet."""

WITNESS_HEADER = f"""
#define bpf_redirect(ifindex, flags) \\
	(count(COUNT_{WITNESS}, (__u64)(flags) << 32 | (ifindex)), bpf_redirect(ifindex, flags))
#define redirect_neigh(ifindex, params, size, flags) \\
	(count(COUNT_{WITNESS}, (ifindex)), redirect_neigh(ifindex, params, size, flags))
"""
"""Appended to node.h: BPF_PROG_TEST_RUN says that a packet is redirected, but not where to."""


class Node:
    """The programs of one configuration with maps of their own, in a network namespace of their own.

    `uplink` is the index that their uplink has there. With a `witness`, redirections tell their target: device
    | flags << 32 is what the counter WITNESS rises by.
    `maps` are the typed handles of the data plane, by name.
    """

    def __init__(
        self,
        config: Config,
        wanted: Sequence[Program],
        *,
        pins: Path,
        build: Path,
        uplink: int,
        witness: bool = False,
    ) -> None:
        maps, programs = pins / "maps", pins / "programs"
        header = node_header(config, Facts(pin_root=str(maps), uplink_ifindex=uplink))
        header += WITNESS_HEADER if witness else ""
        loaded = load(header=header, maps=maps, programs=programs, build=build, wanted=wanted)
        self.config = config
        self.maps = {name: Map(maps, name, layout) for name, layout in loaded.maps.items()}
        self.namespace = new_namespace()
        self._fd = {program.name: bpf.obj_get(programs / program.name) for program in wanted}
        self._type = {program.name: program.type for program in wanted}
        used = frozenset[int]().union(*(bpf.prog_info(fd).map_ids for fd in self._fd.values()))
        self._used = {name for name, handle in self.maps.items() if handle.info.id in used}
        self._names = (*abi.drop_reasons(), *abi.counters())
        self.reset()

    def close(self) -> None:
        """Close every descriptor: with the pins gone, the kernel frees the programs and maps."""
        for handle in self.maps.values():
            handle.close()
        for fd in (*self._fd.values(), self.namespace):
            os.close(fd)

    def descriptor(self, program: str) -> int:
        """The program's file descriptor, to attach it; it stays the node's."""
        return self._fd[program]

    def counters(self) -> dict[str, int]:
        """Every counter's total."""
        return dict(zip(self._names, self.maps["counters"].sums(), strict=True))

    def run(self, program: str, packet: bytes, *, repeat: int = 1, **context: int) -> Result:
        """Run one program on one packet; `context` sets members of xdp_md or __sk_buff."""
        xdp = self._type[program] is ProgramType.XDP
        wanted = XdpContext(data_end=len(packet), **context) if xdp else SkbContext(**context)
        before = self.counters()
        with inside(self.namespace):
            ran = prog_test_run(self._fd[program], packet, wanted, repeat=repeat)
        counted = {name: n - before[name] for name, n in self.counters().items() if n != before[name]}
        mark = 0 if xdp else SkbContext.from_buffer_copy(ran.context).mark
        return Result(ran.verdict, ran.packet, counted, mark, ran.nanoseconds)

    def spin(self, program: str, packet: bytes, *, repeat: int) -> None:
        """Run a classifier over and over, each time on what the run before left, and look at nothing: for threads."""
        with inside(self.namespace):
            prog_test_run(self._fd[program], packet, SkbContext(), repeat=repeat)

    def check(self, program: str, case: Case, **context: int) -> Result:
        """Run a row and assert everything it says."""
        if case.given:
            case.given(self)
        result = self.run(program, case.packet, **context)
        counted = f"{case.name}: counted {dict(result.counted)}"
        assert type(case.verdict)(result.verdict) is case.verdict, counted
        reason = case.counter if case.counter in abi.drop_reasons() else None
        assert result.dropped == reason, counted
        if case.counter:
            assert result.counted.get(case.counter) == 1, counted
        if case.verdict not in (Xdp.DROP, Tc.SHOT):
            assert result.output == (case.packet if case.output is None else case.output), case.name
            assert result.mark == case.mark, case.name
        return result

    def reset(self) -> None:
        """Empty every map that the programs use but the counters; the secret becomes a known one."""
        for slot in self._slots_in_use():
            self.maps["bindings"].update(slot, self.maps["bindings"].value())
        for name in self._used - {"bindings", "counters"}:
            handle = self.maps[name]
            match abi.maps()[name].kind:
                case "hash" | "lru_hash":
                    handle.delete_many([key for key, _ in handle.items()])
                case "lpm_trie":
                    for key, _ in list(handle.items()):
                        handle.delete(key)
                case "array" if handle.info.flags & _MMAPABLE:
                    size = handle.info.max_entries * -(-handle.info.value_size // 8) * 8
                    with mmap.mmap(handle.fd, size) as words:
                        words[:] = bytes(size)
                case "array":
                    size = handle.info.value_size
                    empty = bytes(size)
                    for keys, values in handle.raw_chunks():
                        if values != bytes(len(values)):
                            used = [
                                at for at in range(len(values) // size) if values[at * size : (at + 1) * size] != empty
                            ]
                            handle.update_many([(keys[4 * at : 4 * at + 4], empty) for at in used])
                case "percpu_array":
                    for key in range(handle.info.max_entries):
                        self.fill(name, key, bytes(handle.info.value_size))
        self.maps["secrets"].update(0, bytes(range(ctypes.sizeof(self.maps["secrets"].value))))

    def fill(self, name: str, key: int, value: bytes) -> None:
        """Write the same value for every CPU into a per-CPU array."""
        handle = self.maps[name]
        aligned = value.ljust(-(-len(value) // 8) * 8, b"\0")
        bpf.update(handle.fd, bytes(handle.key(key)), aligned * possible_cpus())

    def cpu_values(self, name: str, key: int) -> list[bytes]:
        """One element of a per-CPU array, by CPU."""
        handle = self.maps[name]
        size = -(-handle.info.value_size // 8) * 8
        raw = bpf.lookup(handle.fd, bytes(handle.key(key)), size * possible_cpus()) or b""
        return [raw[start : start + size] for start in range(0, len(raw), size)]

    def _slots_in_use(self) -> Iterator[int]:
        """The array of bindings is large: where something may be is told by the blocks' used bits."""
        size = abi.constants()["PORTS_PER_BLOCK"]
        for block, value in self.maps["blocks"].items():
            if value.used:
                yield from (_number(block) * size + bit for bit in range(size) if value.used >> bit & 1)
        first = self.maps["blocks"].info.max_entries * size
        for word, value in self.maps["reuse_used"].items():
            yield from (first + _number(word) * 64 + bit for bit in range(64) if value >> bit & 1)


def _raw(handle: Map, value: Any) -> bytes:
    """A value as it lies in the map; ctypes turns a number in an array into an int."""
    return bytes(handle.value(value) if isinstance(value, int) else value)


def _number(value: Any) -> int:
    return int(getattr(value, "value", value))


_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def new_namespace() -> int:
    """A network namespace without a name: gone when its descriptor is closed."""
    made: list[int] = []

    def make() -> None:
        if _libc.unshare(_CLONE_NEWNET) == 0:
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """Put this thread into the network namespace of a descriptor."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(namespace, _CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), "entering a network namespace")
        yield
    finally:
        _libc.setns(home, _CLONE_NEWNET)
        os.close(home)
