"""Sends floods: the programs of flood.bpf.c, in the namespaces of a lab."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from bench.frames import Whole
from bench.traffic import BATCH, MAX_BATCHES, Place, Timing, compiled, run_live
from jetplane.dataplane.links import interface_index
from jetplane.dataplane.programs import ProgramType
from jetplane.lab import namespaces

_CHUNK_S = 0.25
"""How long one system call of a flood that goes on takes; between two there are some 25 ms of nothing."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Who a flood seems to come from: addresses after the frame's own, so many, so far apart."""

    count: int = 1
    stride: int = 1


class Flooding:
    """A source of one frame from many senders, and a program that only counts and drops; for frames of one size."""

    def __init__(self, version: int, size: int) -> None:
        self._size = size
        self._namespace = ""
        self._module = compiled("flood.bpf.c", FAMILY_V6=int(version == 6), WORDS=size // 4)
        self._flood = int(self._module.load_func(b"flood", int(ProgramType.XDP)).fd)
        self.bare_drop = int(self._module.load_func(b"bare_drop", int(ProgramType.XDP)).fd)

    def aim(self, place: Place, whole: Whole, sources: Sources, *, per_second: int = 0) -> None:
        """Send this, of the version and size that it was made for, into this link from now on; so many a second, or as
        many as can be."""
        self._namespace = place.namespace
        job = self._module[b"job"].Leaf()
        job.ifindex = namespaces.inside(place.namespace, lambda: interface_index(place.interface))
        job.first, job.count, job.stride = whole.source_word, sources.count, sources.stride
        job.interval_ns = 10**9 // per_second if per_second else 0
        job.network_sum = whole.network_sum
        ctypes.memmove(job.frame, whole.frame, self._size)
        self._module[b"job"][0] = job

    def close(self) -> None:
        """Free the programs."""
        self._module.cleanup()

    def send(self, packets: int, *, cpu: int) -> Timing:
        """Send so many from this CPU, at full speed; return how long that took."""

        def work() -> None:
            os.sched_setaffinity(0, {cpu})
            run_live(self._flood, bytes(self._size), packets)

        task = self._module[b"job"]
        job = task[0]
        job.sent = 0
        task[0] = job
        namespaces.inside(self._namespace, work)
        stamps = self._module[b"stamps"]
        return Timing(tuple(int(stamps[number].value) for number in range(min(MAX_BATCHES, -(-packets // BATCH)))))

    def dropped(self) -> int:
        """How many packets `bare_drop` has dropped."""
        return int(self._module[b"dropped"].sum(0).value)

    @contextlib.contextmanager
    def going_on(self, *, cpu: int, seconds: float) -> Iterator[Rate]:
        """Flood until left, for so long at most. What is yielded knows the rate afterwards."""
        over, rate = threading.Event(), Rate()
        chunk = BATCH * 256

        def work() -> None:
            nonlocal chunk
            until = time.monotonic() + seconds
            while not over.is_set() and (began := time.monotonic()) < until:
                timing = self.send(chunk, cpu=cpu)
                took = time.monotonic() - began
                rate.packets, rate.seconds = rate.packets + chunk, rate.seconds + chunk / timing.overall()
                chunk = min(BATCH * MAX_BATCHES, max(4 * BATCH, int(min(_CHUNK_S / took, 4.0) * chunk)))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield rate
        finally:
            over.set()
            thread.join()


class Floodings:
    """One for each size of frames, made when it is first asked for. A context manager."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], Flooding] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for flooding in self._made.values():
            flooding.close()

    def of(self, whole: Whole) -> Flooding:
        """The one for such a frame."""
        key = whole.version, len(whole.frame)
        if key not in self._made:
            self._made[key] = Flooding(*key)
        return self._made[key]


@dataclass(slots=True)
class Rate:
    """Packets sent, in how many seconds by the clock on the wall, pauses between system calls left out."""

    packets: int = 0
    seconds: float = 0.0

    @property
    def mpps(self) -> float:
        """Millions a second."""
        return self.packets / self.seconds / 1e6 if self.seconds else 0.0
