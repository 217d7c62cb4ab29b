"""Which core does what.

One core: source, node and sink share it, each waiting for the other: the cost of a packet from end to end.
Two cores: the source has the first, and the node's receiving interface is served by a kernel thread on the second,
which also runs the sink: what a core of the node can carry, with the source overrunning it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from bench.contenders import Contender
from jetplane.errors import JetplaneError, RequirementError
from jetplane.lab import namespaces
from jetplane.lab.addresses import UPLINK
from jetplane.lab.topology import Lab

ONE_CORE, TWO_CORES = "one core", "two cores"
_IDLE = 3  # of the columns of proc_stat(5)


def source_core() -> int:
    """The core that sends."""
    return min(os.sched_getaffinity(0))


def placements() -> tuple[str, ...]:
    """What this machine can do."""
    return (ONE_CORE, TWO_CORES) if len(os.sched_getaffinity(0)) > 1 else (ONE_CORE,)


def idle_share() -> float:
    """How much of all cores nobody uses, 0 to 1, over one second."""
    before = _ticks()
    time.sleep(1)
    ticks = [after - earlier for earlier, after in zip(before, _ticks(), strict=True)]
    return ticks[_IDLE] / max(1, sum(ticks))


def _ticks() -> list[int]:
    line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    return [int(field) for field in line.split()[1:9]]


def give_nodes_their_own(contenders: Sequence[Contender]) -> None:
    """Move the receiving side of every node to the second core. There is no way back but a new lab."""
    core = sorted(os.sched_getaffinity(0))[1]
    for contender in contenders:
        for interface in (UPLINK, contender.tunnel):
            before = _napi_threads()
            _make_threaded(contender, interface)
            made = _napi_threads() - before
            if not made:
                raise JetplaneError(f"bench: {interface}: no kernel thread receives for it")
            for thread in made:
                os.sched_setaffinity(thread, {core})


def _make_threaded(contender: Contender, interface: str) -> None:
    _set(contender.lab, contender.lab.plan.node, interface, "threaded", "1")


def forward_on_first(built: Lab, namespace: str, interface: str) -> None:
    """Have what comes in by this interface forwarded by the first core (receive packet steering).

    A queue of veth is served by the core that has begun to fill it, until it is empty. So what is to be served by the
    first core must be sent there by the first core.
    """
    _set(built, namespace, interface, "queues/rx-0/rps_cpus", f"{1 << source_core():x}")


def _set(built: Lab, namespace: str, interface: str, attribute: str, value: str) -> None:
    """Through sysfs, which shows the devices of the namespace it was mounted in."""
    unshare = shutil.which("unshare")
    if unshare is None:
        raise RequirementError("bench: unshare is missing", hint="install util-linux")
    script = f"mount -t sysfs none /sys && echo {value} > /sys/class/net/{interface}/{attribute}"
    done = namespaces.run(namespace, [unshare, "--mount", "sh", "-c", script], lab=built.name, timeout=20)
    if done.returncode:
        raise JetplaneError(f"bench: {interface}: {attribute}: {done.stderr.decode(errors='replace').strip()}")


def _napi_threads() -> set[int]:
    """Kernel threads that receive; they are named napi/INTERFACE-NUMBER (net/core/dev.c)."""
    found = set()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().startswith("napi/"):
                found.add(int(comm.parent.name))
        except OSError:  # gone meanwhile
            continue
    return found
