"""One TCP download under a plan: refused beyond it, as the node does it, beside queued at the tunnel.

One node, two subscribers: the first has the plan, and the node's token bucket refuses what exceeds it. The second has
none, and in front of its tunnel stands a queue of the same rate (htb) that holds as much as the bucket's burst.
Acknowledgements take a way that is as long as a real one (delay.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.contenders import cut_on_the_wire, receive_frames
from bench.delay import Delay
from bench.forwarding import Say
from bench.results import Row, compared
from jetplane.errors import JetplaneError, RequirementError
from jetplane.lab import namespaces
from jetplane.lab.addresses import SITES_IPV4, TUNNEL_MTU, UPLINK, LabOptions
from jetplane.lab.topology import Lab, lab
from jetplane.lab.waiting import patience, wait_until

QUEUED = "a queue at the tunnel (htb)"
PLAN_MBIT = 20
BURST_S = 0.05
"""What a peer's bucket holds (BURST_NS in ebpf/abi.h), and the queue beside it."""
RTT_MS = (20, 80)
CONGESTION = ("cubic", "bbr")

_ETHERNET = 14
_SEGMENT = TUNNEL_MTU - 52
"""Bytes of TCP's payload in a full packet, with time stamps."""
_OMITTED_S, _SECONDS = 1, 5
_IPERF3_PORT = 5201


@dataclass(frozen=True, slots=True)
class Download:
    """What one was like."""

    goodput: float  # % of the plan
    resent: float  # % of segments
    rtt_ms: float  # as the sender saw it, the mean


def measure(*, rounds: int, say: Say) -> Iterator[Row]:
    """Rows for each congestion control and round trip: goodput, what was sent again, round trip under load."""
    with shaped() as built, ExitStack() as stack:
        delays = [stack.enter_context(Delay(built, number)) for number in range(2)]
        for rtt in RTT_MS:
            for delay in delays:
                delay.set(rtt)
                check(built, delay, rtt)
            for congestion in CONGESTION:
                yield from _compare(built, rtt, congestion, rounds, say)


@contextlib.contextmanager
def shaped() -> Iterator[Lab]:
    """A lab whose first subscriber is policed and whose second is queued at the same rate."""
    with lab(LabOptions(transport="veth", down_mbit=PLAN_MBIT)) as built:
        receive_frames(built, UPLINK, *(tunnel.name for tunnel in built.plan.tunnels))
        config, peers = built.node.config, built.node.peers
        config.write_text(config.read_text() + "\n[plan.queued]\nup_mbit = 0\ndown_mbit = 0\n")
        peers.write_text(peers.read_text() + 'plan = "queued"\n')  # of the second, which stands last
        built.start()
        cut_on_the_wire(built)
        _queue(built)
        yield built


def _queue(built: Lab) -> None:
    device = built.plan.tunnels[built.plan.subscribers[1].tunnel].name
    kbit = round(PLAN_MBIT * 1000 * (TUNNEL_MTU + _ETHERNET) / TUNNEL_MTU)  # htb counts Ethernet's header, plans do not
    held = round(PLAN_MBIT * 1e6 / 8 * BURST_S)
    for line in (
        f"qdisc add dev {device} root handle 1: htb default 1 r2q 1000",
        f"class add dev {device} parent 1: classid 1:1 htb rate {kbit}kbit burst 3k",
        f"qdisc add dev {device} parent 1:1 bfifo limit {held}",
    ):
        _in_node(built, "tc", *line.split())


def _in_node(built: Lab, *command: str) -> str:
    done = namespaces.run(built.plan.node, command, lab=built.name, timeout=patience(20))
    if done.returncode:
        raise JetplaneError(f"bench: {' '.join(command[:3])}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def check(built: Lab, delay: Delay, rtt_ms: int) -> None:
    """See that the way is as long as it is said to be. Raises JetplaneError: then nothing may be timed."""
    command = ["ping", "-n", "-q", "-c", "5", "-i", "0.2", "-I", str(delay.inner), SITES_IPV4[0]]
    done = namespaces.run(delay.namespace, command, lab=built.name, timeout=patience(30))
    found = re.search(rb"= ([\d.]+)/", done.stdout)
    if not found or not rtt_ms <= float(found[1]) <= 1.5 * rtt_ms:
        said = f"{float(found[1]):.1f} ms" if found else "no answer"
        raise JetplaneError(f"bench: a round trip of {rtt_ms} ms: {said}: nothing is measured")


def _compare(built: Lab, rtt: int, congestion: str, rounds: int, say: Say) -> Iterator[Row]:
    found: tuple[list[Download], list[Download]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            found[which].append(_download(built, which, congestion))
    for name, unit, pick in (
        ("goodput", "% of the plan", lambda download: download.goodput),
        ("sent again", "% of segments", lambda download: download.resent),
        ("round trip under load", "ms", lambda download: download.rtt_ms),
    ):
        own, queued = ([*map(pick, downloads)] for downloads in found)
        metric = f"TCP download, {congestion}, {rtt} ms: {name}"
        row = compared("policing", metric, unit, own, QUEUED, [max(1e-3, value) for value in queued])
        say(f"policing, {metric}: {row.jetplane} {unit}, queued {row.rival_value}")
        yield row


def _download(built: Lab, which: int, congestion: str) -> Download:
    """One of the first or second subscriber. JetplaneError unless the one who should have held it back did."""
    before = _held_back(built, which)
    report = _iperf3(built, which, congestion)
    if _held_back(built, which) == before:
        raise JetplaneError(f"bench: {('the bucket', QUEUED)[which]}: nothing reached it: nothing is measured")
    end = report["end"]
    [stream] = report["server_output_json"]["end"]["streams"]
    sent = float(end["sum_sent"]["bytes"]) / _SEGMENT
    return Download(
        100 * float(end["sum_received"]["bits_per_second"]) / (PLAN_MBIT * 1e6),
        100 * float(end["sum_sent"]["retransmits"]) / sent,
        float(stream["sender"]["mean_rtt"]) / 1000,
    )


def _held_back(built: Lab, which: int) -> int:
    """Packets refused by the bucket so far; or those that the queue made wait."""
    if which == 0:
        return built.node.report().counters["RATE"]
    device = built.plan.tunnels[built.plan.subscribers[1].tunnel].name
    [queue, *_] = json.loads(_in_node(built, "tc", "-s", "-j", "qdisc", "show", "dev", device, "root"))
    return int(queue["overlimits"])


def _iperf3(built: Lab, which: int, congestion: str) -> dict[str, Any]:
    program = shutil.which("iperf3")
    if program is None:
        raise RequirementError("bench: iperf3 is missing", hint="install iperf3")
    site, subscriber = SITES_IPV4[0], built.plan.subscribers[which]
    core = str(max(os.sched_getaffinity(0)))
    serve = [program, "--server", "--one-off", "--bind", site, "--forceflush", "--affinity", core]
    server = namespaces.spawn(
        built.plan.internet, [*serve, "--json"], lab=built.name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    ask = [program, "--client", site, "--bind", str(subscriber.inner_ipv4), "--time", str(_SECONDS),
           "--omit", str(_OMITTED_S), "--json", "--reverse", "--congestion", congestion,
           "--get-server-output"]  # fmt: skip
    try:
        wait_until("iperf3's server", lambda: _listens(built, site), server)
        done = namespaces.run(subscriber.namespace, ask, lab=built.name, timeout=patience(_SECONDS + 30))
        report: dict[str, Any] = json.loads(done.stdout or b"{}")
        if done.returncode or "error" in report:
            raise JetplaneError(f"bench: iperf3: {report.get('error', 'it failed')}")
        return report
    finally:
        namespaces.kill(server)


def _listens(built: Lab, site: str) -> bool:
    place = f"{int.from_bytes(socket.inet_aton(site), sys.byteorder):08X}:{_IPERF3_PORT:04X}"
    table = namespaces.inside(built.plan.internet, Path("/proc/thread-self/net/tcp").read_text)
    return any(row.split()[1] == place and row.split()[3] == "0A" for row in table.splitlines()[1:])
