"""One TCP connection with all that offloads allow: packets of up to 64 KiB pass the node whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from bench.contenders import JETPLANE, Contender
from bench.forwarding import Say
from bench.results import Row, compared
from jetplane.errors import JetplaneError, RequirementError
from jetplane.lab import namespaces
from jetplane.lab.addresses import SITES_IPV4
from jetplane.lab.waiting import patience

_SECONDS = 1
_LISTENING = "Server listening"


def measure(contenders: Sequence[Contender], *, rounds: int, say: Say) -> Iterator[Row]:
    """Time the contenders in turn, both ways."""
    for name, flags in (("to the internet", []), ("from the internet", ["--reverse"])):
        rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        for number in range(rounds):
            for place in range(len(contenders)):
                contender = contenders[(place + number) % len(contenders)]
                rates[contender.name].append(_rate(contender, flags))
        own = rates.pop(JETPLANE)
        for rival, found in rates.items():
            row = compared("TCP bulk", f"IPv4 {name}, 1 connection", "Gbit/s", own, rival, found)
            say(f"TCP bulk {name}: {row.jetplane} Gbit/s, {row.ratio} of {rival}")
            yield row


def _rate(contender: Contender, flags: Sequence[str]) -> float:
    """Gbit/s between the first subscriber and a site, the ends on cores of their own if there are two."""
    program = shutil.which("iperf3")
    if program is None:
        raise RequirementError("bench: iperf3 is missing", hint="install iperf3")
    lab, site = contender.lab, SITES_IPV4[0]
    cores = sorted(os.sched_getaffinity(0))
    serve = [program, "--server", "--one-off", "--bind", site, "--forceflush"]
    server = namespaces.spawn(lab.plan.internet, serve, lab=lab.name, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert server.stdout is not None
        while _LISTENING not in (line := server.stdout.readline().decode()):
            if not line:
                raise JetplaneError("bench: iperf3 does not listen")
        send = [program, "--client", site, "--time", str(_SECONDS), "--json", "--affinity", f"{cores[0]},{cores[-1]}"]
        subscriber = lab.plan.subscribers[0].namespace
        done = namespaces.run(subscriber, [*send, *flags], lab=lab.name, timeout=patience(_SECONDS + 20))
        report = json.loads(done.stdout or b"{}")
        if done.returncode or "error" in report:
            raise JetplaneError(f"bench: {contender.name}: iperf3: {report.get('error', 'it failed')}")
        return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9
    finally:
        server.kill()
        server.wait()
        if server.stdout:
            server.stdout.close()
