"""How long a scrape takes: jetplane's exporter as the node runs it, beside an exporter of every peer and a bare one.

All serve on loopback in the node's namespace and close after each answer, so every scrape is a connection of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.bare_exporter import ask
from bench.forwarding import Say
from bench.results import Row, compared
from jetplane.errors import JetplaneError
from jetplane.lab import namespaces
from jetplane.lab.addresses import SUBSCRIBERS, LabOptions
from jetplane.lab.topology import Lab, lab
from jetplane.lab.waiting import patience, wait_until

RIVAL = "an exporter of every peer"
PEERS = (1, 10_000)
SCRAPES = 1000
"""Of jetplane's exporter in a round: ten of them are slower than the 99th percentile."""
RIVAL_SCRAPES = {1: 100, 10_000: 3}
"""Of the rival, in a round: a scrape of 10,000 peers takes as long as a thousand of jetplane's."""
_RIVAL_PORT, _BARE_PORT = 9587, 9588
BARE = "the same bytes by a bare loop"
"""accept, recv, send, close: what is above it is jetplane's, what it takes itself is the machine's."""
_SCRAPE_S = 10.0  # Prometheus' own limit for one


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of the scrapes of one round, in milliseconds."""

    median: float
    p99: float


def latencies(milliseconds: Sequence[float]) -> Latencies:
    """Median and 99th percentile; of less than a hundred the slowest stands for the latter."""
    ordered = sorted(milliseconds)
    return Latencies(statistics.median(ordered), ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)])


class Endpoint:
    """An exporter on loopback in a namespace, a process that runs `module`."""

    def __init__(self, name: str, namespace: str, port: int, module: str) -> None:
        self.name = name
        self._module = module
        self._namespace = namespace
        self._port = port

    def scrape(self) -> bytes:
        """One answer, head and body. Raises JetplaneError unless it is one that Prometheus would take."""
        answer = namespaces.inside(self._namespace, self._ask)
        head, _, body = answer.partition(b"\r\n\r\n")
        if head.split(b" ")[1:2] != [b"200"] or not body.endswith(b"# EOF\n"):
            raise JetplaneError(f"bench: {self.name}: its answer is no exposition: nothing is measured")
        return answer

    def time(self, count: int, *, first: bool = False) -> Latencies:
        """Scrape so many times, one after the other, from the request for a connection to the answer's last byte.

        `first`: with exporter and client before everybody else on the machine (SCHED_FIFO, sched(7)).
        """
        with contextlib.ExitStack() as stack:
            if first:
                stack.enter_context(_before_others(_serving(self._namespace, self._module)))
            return latencies(namespaces.inside(self._namespace, lambda: self._timed(count, first=first)))

    def _timed(self, count: int, *, first: bool) -> list[float]:
        with contextlib.ExitStack() as stack:
            if first:
                stack.enter_context(_before_others(threading.get_native_id()))
            took = []
            for _ in range(count):
                began = time.perf_counter_ns()
                answer = self._ask()
                took.append((time.perf_counter_ns() - began) / 1e6)
                if not answer.startswith(b"HTTP/1.") or not answer.endswith(b"# EOF\n"):
                    raise JetplaneError(f"bench: {self.name}: an answer is not whole")
            return took

    def _ask(self) -> bytes:
        return ask(self._port, patience(_SCRAPE_S))


@contextlib.contextmanager
def _before_others(thread: int) -> Iterator[None]:
    """A thread runs whenever it can: who else uses the machine is not measured."""
    try:
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(1))
    except OSError as error:
        raise JetplaneError(f"bench: real-time priority: {error.strerror}") from None
    try:
        yield
    finally:
        os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _serving(namespace: str, module: str) -> int:
    """The process of the exporter in the namespace."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            here = (process / "ns/net").stat().st_ino == namespaces.inode(namespace)
            if here and f"{module}\0".encode() in (process / "cmdline").read_bytes():
                return int(process.name)
    raise JetplaneError(f"bench: {namespace}: no exporter runs")


@dataclass(frozen=True, slots=True)
class Node:
    """A node with so many peers, its exporter, and the others beside it."""

    peers: int
    own: Endpoint
    rival: Endpoint
    bare: Endpoint

    def check(self) -> None:
        """See that exporter and rival tell of so many peers, jetplane's and the bare one the same bytes each time."""
        own = self.own.scrape()
        if f"jetplane_peers_configured {float(self.peers)}\n".encode() not in own:
            raise JetplaneError(f"bench: {self.own.name}: does not tell of {self.peers:,} peers: nothing is measured")
        if self.own.scrape() != own:
            raise JetplaneError(f"bench: {self.own.name}: two scrapes of one release differ: nothing is measured")
        if self.bare.scrape() != own:
            raise JetplaneError(f"bench: {self.bare.name}: its answer is another: nothing is measured")
        keys = set(re.findall(rb'public_key="([^"]+)"', self.rival.scrape()))
        if len(keys) != self.peers:
            raise JetplaneError(f"bench: {self.rival.name}: tells of {len(keys)} peers: nothing is measured")


@contextlib.contextmanager
def node(peers: int) -> Iterator[Node]:
    """A lab's node with exactly so many peers, and both exporters serving."""
    with lab(LabOptions(peers=max(0, peers - SUBSCRIBERS))) as built:
        built.start()
        for key in built.public_keys[peers:]:
            removed = built.node.jetplane("peers", "remove", key)
            if removed.returncode:
                raise JetplaneError(f"bench: jetplane peers remove: {removed.stderr.decode().strip()}")
        own = Endpoint("jetplane", built.plan.node, built.options.metrics_port, "jetplane.metrics.exporter")
        wait_until(f"the exposition of {peers:,} peers", lambda: _tells(own, peers), seconds=60)
        [tunnel] = built.plan.tunnels
        like = str(built.options.metrics_port)
        with (
            _beside(built, RIVAL, "bench.naive_exporter", _RIVAL_PORT, tunnel.name) as rival,
            _beside(built, BARE, "bench.bare_exporter", _BARE_PORT, "--like", like) as bare,
        ):
            made = Node(peers, own, rival, bare)
            made.check()
            yield made


def _tells(own: Endpoint, peers: int) -> bool:
    try:
        return f"jetplane_peers_configured {float(peers)}\n".encode() in own.scrape()
    except (JetplaneError, OSError):
        return False


@contextlib.contextmanager
def _beside(built: Lab, name: str, module: str, port: int, *arguments: str) -> Iterator[Endpoint]:
    command = [sys.executable, "-m", module, "--port", str(port), *arguments]
    process = namespaces.spawn(
        built.plan.node, command, lab=built.name, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise JetplaneError(f"bench: {name} does not start")
        yield Endpoint(name, built.plan.node, port, module)
    finally:
        namespaces.kill(process)
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def _rounds() -> dict[int, list[Latencies]]:
    return {peers: [] for peers in PEERS}


def measure(*, rounds: int, say: Say) -> Iterator[Row]:
    """Rows of median and 99th percentile for each number of peers, all in turn; and of many peers beside one."""
    own, own_first, bare, bare_first, rival = (_rounds() for _ in range(5))
    with ExitStack() as stack:
        nodes = [stack.enter_context(node(peers)) for peers in PEERS]
        for number in range(rounds):
            for each in nodes if number % 2 else reversed(nodes):
                for first, mine, least in ((False, own, bare), (True, own_first, bare_first)):
                    mine[each.peers].append(each.own.time(SCRAPES, first=first))
                    least[each.peers].append(each.bare.time(SCRAPES, first=first))
                rival[each.peers].append(each.rival.time(RIVAL_SCRAPES[each.peers]))
    for name, pick in (("median", lambda found: found.median), ("p99", lambda found: found.p99)):
        for peers in PEERS:
            metric = f"{peers:,} peer{'s' if peers > 1 else ''}, {name}"
            for what, mine, other, others in (
                (metric, own, RIVAL, rival),
                (metric, own, BARE, bare),
                (f"{metric}, before all others on the machine", own_first, BARE, bare_first),
            ):
                row = compared("scrape", what, "ms", [*map(pick, mine[peers])], other, [*map(pick, others[peers])])
                say(f"scrape {what}: {row.jetplane} ms, {other} {row.rival_value} ms")
                yield row
        one, many = PEERS
        yield compared("scrape", f"{many:,} peers, {name}", "ms", [*map(pick, own[many])],
                       "jetplane, 1 peer", [*map(pick, own[one])])  # fmt: skip
