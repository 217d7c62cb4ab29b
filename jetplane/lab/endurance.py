"""Checks of what a node must live through: its start, its controller's death, a customer who leaves, its end."""

from __future__ import annotations

import time
from pathlib import Path

from jetplane.lab import snapshot, traffic
from jetplane.lab.stage import BURST, Stage, require
from jetplane.lab.waiting import slowness

_REVOKED_WITHIN_S = 2.0
_UNBROKEN_S = 0.5


def node_starts(stage: Stage) -> str:
    """The daemon, from the configuration file to forwarding."""
    stage.before = snapshot.take(stage.lab.plan.node)
    began = time.monotonic()
    stage.lab.start()
    seconds = time.monotonic() - began
    report = stage.lab.node.report()
    require(report.healthy, f"not healthy: {report.problems}")
    require(report.status.wireguard == stage.lab.wireguard, f"its WireGuard is {report.status.wireguard}")
    return f"ready in {seconds:.1f} s, WireGuard: {report.status.wireguard}"


def survives_controller(stage: Stage) -> str:
    """kill -9 of the controller with downloads running: they go on, and new ones begin."""
    with traffic.Stream(stage.visit(0, 4)) as one, traffic.Stream(stage.visit(1, 6)) as other:
        for stream in (one, other):
            stream.wait_for_more(200_000)
        since = time.monotonic()
        stage.lab.node.kill()
        for stream in (one, other):
            stream.wait_for_more(1_000_000)
        fresh = traffic.udp_echo(stage.visit(1, 4), BURST)
        gap = max(stream.longest_gap(since) for stream in (one, other))
    require(gap < _unbroken(), f"a stream paused for {gap:.2f} s")
    require(fresh == BURST, f"{fresh} of {BURST} new datagrams came back")
    return f"two streams went on (longest pause {gap * 1000:.0f} ms) and a new flow began"


def restart_is_unnoticed(stage: Stage) -> str:
    """The next controller takes the running programs over: nothing is compiled, no binding is lost."""
    programs = snapshot.program_ids(stage.lab.plan.node)
    with traffic.Stream(stage.visit(0, 6)) as one, traffic.Stream(stage.visit(1, 4)) as other:
        for stream in (one, other):
            stream.wait_for_more(200_000)
        since = time.monotonic()
        stage.lab.node.start()
        took = time.monotonic() - since
        for stream in (one, other):
            stream.wait_for_more(500_000)
        gap = max(stream.longest_gap(since) for stream in (one, other))
    require(gap < _unbroken(), f"a stream paused for {gap:.2f} s")
    after = snapshot.program_ids(stage.lab.plan.node)
    require(bool(programs) and after == programs, f"programs were {programs}, are {after}")
    require(stage.lab.node.report().healthy, "not healthy after it")
    return f"ready in {took:.1f} s with the same {len(programs)} programs, longest pause {gap * 1000:.0f} ms"


def revoking_cuts_off(stage: Stage) -> str:
    """A peer is removed in mid-flow: its stream stops at once, its neighbour's does not notice."""
    with traffic.Stream(stage.visit(0, 4)) as neighbour, traffic.Stream(stage.visit(1, 4)) as revoked:
        for stream in (neighbour, revoked):
            stream.wait_for_more(200_000)
        since = time.monotonic()
        done = stage.lab.node.jetplane("peers", "remove", stage.lab.public_keys[1])
        returned = time.monotonic()
        require(done.returncode == 0, done.stderr.decode().strip())
        revoked.wait_for_silence(min(slowness(), 3))
        neighbour.wait_for_more(500_000)
        gap = neighbour.longest_gap(since)
        stopped = max(0.0, revoked.last_arrival - returned)
    require(stopped < _REVOKED_WITHIN_S * slowness(), f"its stream went on for {stopped:.2f} s")
    require(gap < _unbroken(), f"the neighbour's stream paused for {gap:.2f} s")
    require(traffic.ping(stage.visit(1, 4), 2, wait=1) == 0, "it can still ping")
    return f"stopped {stopped * 1000:.0f} ms after the command; the neighbour's longest pause was {gap * 1000:.0f} ms"


def status_is_right(stage: Stage) -> str:
    """`jetplane status` knows the peers that are left, and nobody else."""
    status = stage.lab.node.status()
    tunnels = status["tunnels"]
    wanted, observed = (sum(int(tunnel[key]) for tunnel in tunnels) for key in ("wanted", "observed"))
    expected = 1 + stage.lab.options.peers
    require((wanted, observed) == (expected, expected), f"wanted {wanted}, observed {observed}, not {expected}")
    require(status["running"] and status["healthy"], f"problems: {status['problems']}")
    return f"healthy, {observed} peer{'s' if observed != 1 else ''}, pid {status['pid']}"


def down_leaves_nothing(stage: Stage) -> str:
    """After `jetplane down` links, addresses, routes, rules, filters and sysctls are what they were."""
    done = stage.lab.node.jetplane("down")
    require(done.returncode == 0, done.stderr.decode().strip())
    after = snapshot.take(stage.lab.plan.node)
    differences = snapshot.compare(stage.before, after)
    require(not differences, f"{len(differences)} differences: {'; '.join(differences[:5])}")
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{stage.lab.name}/" in line]
    require(not mounts, f"still mounted: {len(mounts)}")
    files = [path.name for path in stage.lab.node.run_directory.rglob("*") if path.is_file()]
    require(not files, f"left in its run directory: {', '.join(files[:5])}")
    return f"{len(after)} settings of the namespace compared, none differs"


def _unbroken() -> float:
    return _UNBROKEN_S * slowness()
