"""How long a scrape takes: jetplane's exporter as the node runs it, beside an exporter of every peer.

Both serve on loopback in the node's namespace and close after each answer, so every scrape is a connection of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.forwarding import Say
from bench.results import Row, alone, compared
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
_RIVAL_PORT = 9587
_REQUEST = (
    b"GET /metrics HTTP/1.1\r\nHost: node\r\nUser-Agent: Prometheus/2.42.0\r\n"
    b"Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n\r\n"
)
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
    """An exporter on loopback in a namespace."""

    def __init__(self, name: str, namespace: str, port: int) -> None:
        self.name = name
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
                stack.enter_context(_before_others(_serving(self._namespace)))
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
        with socket.create_connection(("127.0.0.1", self._port), patience(_SCRAPE_S)) as client:
            client.sendall(_REQUEST)
            parts = []
            while part := client.recv(1 << 20):
                parts.append(part)
        return b"".join(parts)


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


def _serving(namespace: str) -> int:
    """The process of the exporter that the namespace's node has started."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            here = (process / "ns/net").stat().st_ino == namespaces.inode(namespace)
            if here and b"jetplane.metrics.exporter\0" in (process / "cmdline").read_bytes():
                return int(process.name)
    raise JetplaneError(f"bench: {namespace}: no exporter runs")


@dataclass(frozen=True, slots=True)
class Node:
    """A node with so many peers, its exporter and the rival's beside it."""

    peers: int
    own: Endpoint
    rival: Endpoint

    def check(self) -> None:
        """See that both tell of a node with so many peers, and jetplane's the same bytes each time."""
        own = self.own.scrape()
        if f"jetplane_peers_configured {float(self.peers)}\n".encode() not in own:
            raise JetplaneError(f"bench: {self.own.name}: does not tell of {self.peers:,} peers: nothing is measured")
        if self.own.scrape() != own:
            raise JetplaneError(f"bench: {self.own.name}: two scrapes of one release differ: nothing is measured")
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
        with _rival(built) as rival:
            own = Endpoint("jetplane", built.plan.node, built.options.metrics_port)
            made = Node(peers, own, rival)
            wait_until(f"the exposition of {peers:,} peers", lambda: _tells(own, peers), seconds=60)
            made.check()
            yield made


def _tells(own: Endpoint, peers: int) -> bool:
    try:
        return f"jetplane_peers_configured {float(peers)}\n".encode() in own.scrape()
    except (JetplaneError, OSError):
        return False


@contextlib.contextmanager
def _rival(built: Lab) -> Iterator[Endpoint]:
    [tunnel] = built.plan.tunnels
    command = [sys.executable, "-m", "bench.naive_exporter", "--port", str(_RIVAL_PORT), tunnel.name]
    process = namespaces.spawn(
        built.plan.node, command, lab=built.name, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise JetplaneError(f"bench: {RIVAL} does not start")
        yield Endpoint(RIVAL, built.plan.node, _RIVAL_PORT)
    finally:
        namespaces.kill(process)
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def measure(*, rounds: int, say: Say) -> Iterator[Row]:
    """Rows of median and 99th percentile for each number of peers, all in turn; and of many peers beside one."""
    own: dict[int, list[Latencies]] = {peers: [] for peers in PEERS}
    first: dict[int, list[Latencies]] = {peers: [] for peers in PEERS}
    rival: dict[int, list[Latencies]] = {peers: [] for peers in PEERS}
    with ExitStack() as stack:
        nodes = [stack.enter_context(node(peers)) for peers in PEERS]
        for number in range(rounds):
            for each in nodes if number % 2 else reversed(nodes):
                own[each.peers].append(each.own.time(SCRAPES))
                first[each.peers].append(each.own.time(SCRAPES, first=True))
                rival[each.peers].append(each.rival.time(RIVAL_SCRAPES[each.peers]))
    for name, pick in (("median", lambda found: found.median), ("p99", lambda found: found.p99)):
        for peers in PEERS:
            metric = f"{peers:,} peer{'s' if peers > 1 else ''}, {name}"
            row = compared("scrape", metric, "ms", [*map(pick, own[peers])], RIVAL, [*map(pick, rival[peers])])
            say(f"scrape {metric}: {row.jetplane} ms, {RIVAL} {row.rival_value} ms")
            yield row
            yield alone("scrape", f"{metric}, before all others on the machine", "ms", [*map(pick, first[peers])])
        one, many = PEERS
        yield compared("scrape", f"{many:,} peers, {name}", "ms", [*map(pick, own[many])],
                       "jetplane, 1 peer", [*map(pick, own[one])])  # fmt: skip
