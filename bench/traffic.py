"""Sends and counts: the programs of traffic.bpf.c, in the namespaces of a lab."""

from __future__ import annotations

import ctypes
import ipaddress
import itertools
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.frames import DISCARD_PORT, HEADERS, MAX_FLOWS, SHORTEST, Arrived, Template, arrived
from jetplane.dataplane import toolchain
from jetplane.dataplane.links import Links, interface_index
from jetplane.dataplane.programs import Hook, ProgramType
from jetplane.dataplane.run import prog_test_run
from jetplane.errors import JetplaneError, KernelError
from jetplane.lab import namespaces

_LIVE_FRAMES = 2  # BPF_F_TEST_XDP_LIVE_FRAMES (linux/bpf.h)
BATCH, MAX_BATCHES = 64, 16_384  # as in traffic.bpf.c
_SETTLE_S = 0.05  # longer than a kernel thread waits for its core, unless the machine is overloaded


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a link: where packets are sent into it, or arrive from it."""

    namespace: str
    interface: str


@dataclass(frozen=True, slots=True)
class Timing:
    """When each batch began, in ns."""

    stamps: tuple[int, ...]

    def overall(self) -> float:
        """Packets a second, from the first batch to the last."""
        return BATCH * (len(self.stamps) - 1) * 1e9 / (self.stamps[-1] - self.stamps[0])

    def typical(self) -> float:
        """Packets a second of the median batch: those in which the core did something else have no say."""
        return BATCH * 1e9 / statistics.median(b - a for a, b in itertools.pairwise(self.stamps))


class Traffic:
    """One source and one sink, for one family, with maps of their own. Both directions share where flows came from."""

    def __init__(self, version: int, *, payload: int = 0, lead: int = 0, from_port: int = DISCARD_PORT) -> None:
        """For a payload of so many bytes, if not the shortest, with so many in front of what the program enters; from
        sites it comes to the sink from `from_port`."""
        self.version = version
        length = HEADERS[version] + (payload or len(SHORTEST[version]))
        words = -(-length // 4)
        self._module = compiled(
            "traffic.bpf.c",
            FAMILY_V6=int(version == 6),
            MAX_FLOWS=MAX_FLOWS[version],
            LEAD=lead // 4,
            PADDING=4 * words - HEADERS[version] - lead - 8,
            LENGTH=length,
            WORDS=words,
            FROM_PORT=from_port,
        )
        self._generate = self._load("generate", ProgramType.XDP)
        self._sinks = {name: self._load(name, ProgramType.SCHED_CLS) for name in ("sink_outside", "sink_inside")}
        self.nothing_xdp = self._load("nothing_xdp", ProgramType.XDP)
        self.bare_forward = self._load("bare_forward", ProgramType.XDP)
        self.nothing_tc = self._load("nothing_tc", ProgramType.SCHED_CLS)

    def _load(self, name: str, kind: ProgramType) -> int:
        return int(self._module.load_func(name.encode(), int(kind)).fd)

    def close(self) -> None:
        """Free programs and maps."""
        self._module.cleanup()

    def attach_sink(self, place: Place, *, outside: bool) -> None:
        """Count and drop at this end, where packets to sites arrive, or those from them; it goes with its interface."""
        sink = self._sinks["sink_outside" if outside else "sink_inside"]

        def attach() -> None:
            with Links() as links:
                index = interface_index(place.interface)
                links.add_clsact(index)
                links.replace_filter(index, Hook.INGRESS, sink, f"bench{self.version}")

        namespaces.inside(place.namespace, attach)

    def prepare(
        self, place: Place, template: Template, flows: int, *, returning: bool, insides: int = 1, sites: int = 1
    ) -> None:
        """Say what to send, and into which link.

        Flows take so many addresses in turn on either side, beginning with the template's.
        """
        index = namespaces.inside(place.namespace, lambda: interface_index(place.interface))
        task = self._module[b"job"]
        job = task.Leaf()
        job.ifindex, job.flows, job.returning = index, flows, int(returning)
        job.network_sum, job.transport_sum = template.network_sum, template.transport_sum
        job.inside.count, job.site.count = insides, sites
        job.inside.first, job.site.first = template.source_end, template.destination_end
        if returning:
            job.inside.first, job.site.first = 0, template.source_end
        ctypes.memmove(job.frame, template.frame, len(template.frame))
        task[0] = job

    def send(self, place: Place, packets: int, *, cpu: int) -> Timing:
        """Send so many packets as prepared from this CPU, at full speed; return how long that took.

        In one system call, which looks for signals after each batch. It takes some 25 ms to set up and tear down, so
        the program itself reads the clock, at the first packet of each batch.
        """

        def work() -> None:
            os.sched_setaffinity(0, {cpu})
            run_live(self._generate, bytes(self._frame_size), packets)

        self._restart()
        namespaces.inside(place.namespace, work)
        stamps = self._module[b"stamps"]
        return Timing(tuple(int(stamps[number].value) for number in range(min(MAX_BATCHES, -(-packets // BATCH)))))

    def _restart(self) -> None:
        task = self._module[b"job"]
        job = task[0]
        job.sent = 0
        task[0] = job

    def received(self) -> int:
        """How many packets have come to the sink since it was made, those that GRO has merged one by one."""
        return self._counted(0) + self.merged()

    def merged(self) -> int:
        """How many of them came inside another."""
        return self._counted(1)

    def _counted(self, what: int) -> int:
        return int(self._module[b"tally"].sum(what).value)

    def settled(self) -> int:
        """`received`, once nothing more comes."""
        before, now = -1, self.received()
        while before != now:
            time.sleep(_SETTLE_S)
            before, now = now, self.received()
        return now

    def want_sample(self) -> None:
        """Keep a copy of the next packet."""
        samples = self._module[b"sample"]
        sample = samples.Leaf()
        sample.wanted = 1
        samples[0] = sample

    def sample(self) -> Arrived:
        """The packet that was kept, its checksums verified."""
        sample = self._module[b"sample"][0]
        if sample.wanted:
            raise JetplaneError("bench: no packet arrived: nothing is measured")
        return arrived(bytes(sample.bytes)[: sample.length])

    def origins(self, flows: int) -> set[tuple[str, int]]:
        """Addresses and ports that the flows seemed to come from."""
        found = set()
        for flow in range(flows):
            origin = self._module[b"seen"][flow]
            words = b"".join(int(word).to_bytes(4, "little") for word in origin.address)
            address = ipaddress.ip_address(words[: 4 if self.version == 4 else 16])
            found.add((str(address), int.from_bytes(int(origin.port).to_bytes(2, "little"), "big")))
        return found

    def forget(self) -> None:
        """Forget where flows came from."""
        self._module[b"seen"].clear()

    @property
    def _frame_size(self) -> int:
        return ctypes.sizeof(self._module[b"job"].Leaf().frame)


def run_live(fd: int, frame: bytes, packets: int) -> None:
    """Run a program on so many live frames of this size, which are what it makes of them."""
    try:
        prog_test_run(fd, frame, repeat=packets, flags=_LIVE_FRAMES)
    except KernelError as error:
        raise JetplaneError(f"bench: sending live frames: {error}", hint="needs Linux 5.18 or later") from None


def compiled(source: str, **constants: int) -> Any:
    """A module of bcc from one of the programs in this directory, with these constants."""
    toolchain.bcc_version()  # says what is wrong with it, if something is
    with tempfile.TemporaryDirectory(prefix="jetplane-bench-") as directory:
        os.environ["BCC_KERNEL_SOURCE"] = str(toolchain.make_headers(Path(directory, "headers")))
        from bcc import BPF

        text = Path(__file__).with_name(source).read_bytes()
        return BPF(text=text, cflags=[f"-D{name}={value}" for name, value in constants.items()])
