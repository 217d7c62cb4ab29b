"""A subscriber's download while the node is flooded: how much of it is left.

The flood comes by the same link and queue as the download. Its source, the node's receiving side and the site share the
first core; the subscriber has the second. Were the site on the second, too, its packets would now and then move the
node's receiving side there (bench/cores.py): then the source would overrun the node, and as many of a download's
packets would be lost as of the flood's, whoever drops.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from bench import cores
from bench.contenders import JETPLANE, Contender, cut_on_the_wire, jetplane_node, nftables_node
from bench.flood import NETDEV, Flood, Target, floods, jetplane_drops, nftables_drops
from bench.flooding import Flooding, Floodings
from bench.forwarding import Say
from bench.results import Row, compared
from jetplane.errors import JetplaneError, RequirementError
from jetplane.lab import namespaces
from jetplane.lab.addresses import SITES_IPV4, LabOptions
from jetplane.lab.topology import lab
from jetplane.lab.waiting import patience

GIGABIT = 1_488_095
"""The smallest frames that a gigabit of Ethernet carries in a second."""
RATES = {GIGABIT: "paced, a gigabit's smallest frames at most", 0: "as fast as the source can"}

_SECONDS = 1
_MBIT, _BYTES = 100, 1200
_MOST_S = 20.0
_ARRIVED = 0.05
"""At least this part of the flood must have been dropped as meant: the rest found the node's queue full."""
_LISTENING = "Server listening"
_UNIT = "% of undisturbed goodput"


def measure(*, rounds: int, say: Say) -> Iterator[Row]:
    """Rows for each target and rate: jetplane's part that is left, and the rival's."""
    with ExitStack() as stack:
        own, rival = (
            make(stack.enter_context(lab(LabOptions(transport="veth")))) for make in (jetplane_node, nftables_node)
        )
        for contender in (own, rival):
            cut_on_the_wire(contender.lab)  # or the rival's download would go round the queue that is flooded
        floodings = stack.enter_context(Floodings())
        for flood in floods(own)[:2]:
            flooding = floodings.of(flood.whole(bytes(6)))
            with jetplane_drops(own, flood.reasons) as one, nftables_drops(rival, flood) as other:
                for rate, name in RATES.items():
                    yield from _compare(flood, flooding, ((own, one), (rival, other)), rate, name, rounds, say)


def _compare(
    flood: Flood,
    flooding: Flooding,
    nodes: Sequence[tuple[Contender, Target]],
    rate: int,
    name: str,
    rounds: int,
    say: Say,
) -> Iterator[Row]:
    left: dict[str, list[float]] = {JETPLANE: [], NETDEV: []}
    sent: dict[str, list[float]] = {JETPLANE: [], NETDEV: []}
    for number in range(rounds):
        for contender, target in nodes if number % 2 else reversed(nodes):
            before, dropped = _goodput(contender), target.dropped()
            flooding.aim(target.place, target.whole(flood), flood.sources, per_second=rate)
            with flooding.going_on(cpu=cores.source_core(), seconds=_MOST_S) as flooded:
                under = _goodput(contender)
            if target.dropped() - dropped < flooded.packets * _ARRIVED:
                raise JetplaneError(f"bench: {contender.name}: {flood.name}: the flood did not arrive")
            left[target.name].append(100 * under / before)
            sent[target.name].append(flooded.mpps)
    metric = f"{flood.name}, {name}"
    row = compared("download under flood", metric, _UNIT, left[JETPLANE], NETDEV, left[NETDEV])
    say(f"download under flood {metric}: {row.jetplane} %, the rival {row.rival_value} %")
    yield row
    yield compared("download under flood", f"{metric}: the flood", "Mpps", sent[JETPLANE], NETDEV, sent[NETDEV])


def _goodput(contender: Contender) -> float:
    """Mbit/s of a download of 100 that arrive at the first subscriber, by iperf3.

    The site goes before all others on its core, for it stands for a machine of its own.
    """
    program, first = shutil.which("iperf3"), shutil.which("chrt")
    if program is None or first is None:
        raise RequirementError("bench: iperf3 or chrt is missing", hint="install iperf3 and util-linux")
    built, site, core = contender.lab, SITES_IPV4[0], str(max(os.sched_getaffinity(0)))
    serve = [first, "--fifo", "1", program, "--server", "--one-off", "--bind", site, "--forceflush",
             "--affinity", str(cores.source_core())]  # fmt: skip
    ask = [program, "--client", site, "--time", str(_SECONDS), "--json", "--affinity", core, "--reverse",
           "--udp", "--bitrate", f"{_MBIT}M", "--length", str(_BYTES)]  # fmt: skip
    server = namespaces.spawn(
        built.plan.internet, serve, lab=built.name, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert server.stdout is not None
        while _LISTENING not in (line := server.stdout.readline().decode()):
            if not line:
                raise JetplaneError("bench: iperf3 does not listen")
        subscriber = built.plan.subscribers[0].namespace
        done = namespaces.run(subscriber, ask, lab=built.name, timeout=patience(_SECONDS + 20))
        report = json.loads(done.stdout or b"{}")
        if done.returncode or "error" in report:
            raise JetplaneError(f"bench: {contender.name}: iperf3: {report.get('error', 'it failed')}")
        total = report["end"]["sum"]
        return float(total["bits_per_second"]) * (1 - float(total["lost_percent"]) / 100) / 1e6
    finally:
        server.kill()
        server.wait()
        if server.stdout:
            server.stdout.close()
