"""Checks of what must not happen: packets that must not get in or out, and metrics that must not tell."""

from __future__ import annotations

import random

from jetplane.lab import probes
from jetplane.lab.addresses import LISTEN_PORT, NODE_IPV4, NODE_IPV6
from jetplane.lab.stage import BURST, Stage, require
from jetplane.lab.waiting import wait_until

_NODES = {4: str(NODE_IPV4.ip), 6: str(NODE_IPV6.ip)}


def capture_works(stage: Stage) -> str:
    """A leak made on purpose, past every guard, must be seen; or the capture would prove nothing."""
    inner = stage.lab.plan.subscribers[0].inner_ipv4
    probes.send_from_node(stage, str(inner), past_guards=True)
    found: list[str] = []

    def look() -> bool:
        found.extend(stage.watch.leaks())
        return bool(found)

    wait_until("the planted leak", look)
    require(found == [f"source {inner}"], f"expected one planted leak, saw {found}")
    return "a packet with an inner source, planted on the uplink before the node runs, was seen"


def garbage_is_dropped(stage: Stage) -> str:
    """What is no WireGuard message ends at the uplink, counted by name."""
    before = stage.counter("WIREGUARD_SHAPE")
    generator = random.Random(0)
    for family in (4, 6):
        probes.send_datagrams(stage, (_NODES[family], LISTEN_PORT), [generator.randbytes(33) for _ in range(BURST)])
    rise = stage.rise("WIREGUARD_SHAPE", before, 2 * BURST)
    require(rise == 2 * BURST, f"{2 * BURST} sent, {rise} counted")
    return f"{2 * BURST} datagrams sent, {rise} counted as WIREGUARD_SHAPE"


def unsolicited_is_dropped(stage: Stage) -> str:
    """At an exit address only what a subscriber asked for gets in."""
    before = stage.counter("NO_BINDING")
    for family in (4, 6):
        for port in random.Random(family).sample(range(1024, 61000), BURST):
            probes.send_datagrams(stage, (stage.exits(family)[0], port), [b"anybody there?"])
    rise = stage.rise("NO_BINDING", before, 2 * BURST)
    # A subscriber's own port can be hit by chance, and late packets of finished downloads count here too.
    require(rise >= 2 * BURST - 2, f"{2 * BURST} sent, {rise} counted")
    return f"{2 * BURST} datagrams to random ports of the exit addresses, dropped as NO_BINDING"


def node_is_silent(stage: Stage) -> str:
    """A TCP connection to the node or its exit addresses gets no answer at all."""
    targets = [*_NODES.values(), *(stage.exits(family)[0] for family in (4, 6))]
    for target in targets:
        for port in (22, stage.lab.options.metrics_port):
            answer = probes.knock(stage, target, port)
            require(answer == "timeout", f"port {port} of {target}: {answer}")
    return f"SSH and metrics ports of {len(targets)} addresses: nothing answers"


def leak_guard_works(stage: Stage) -> str:
    """The same packet that proved the capture, now sent by the node itself in the ordinary way, must not leave."""
    before = stage.counter("LEAK")
    for _ in range(BURST):
        probes.send_from_node(stage, str(stage.lab.plan.subscribers[0].inner_ipv4), past_guards=False)
    rise = stage.rise("LEAK", before, BURST)
    require(rise == BURST, f"{BURST} sent, {rise} counted")
    return f"{BURST} packets with an inner source stopped at the uplink, counted as LEAK"


def metrics_tell_nothing(stage: Stage) -> str:
    """The exposition names nobody; its series are always the same; it listens on loopback only."""
    text = probes.scrape(stage)
    series = probes.series(text)
    require(bool(series), "no series")
    require(not stage.series or series == stage.series, f"series changed: {sorted(series ^ stage.series)[:3]}")
    stage.series = series
    found = [canary for canary in _canaries(stage) if canary in text]
    require(not found, f"{len(found)} keys or addresses in it")
    listening = probes.tcp_listeners(stage.lab.plan.node)
    require(bool(listening) and listening <= {"127.0.0.1", "::1"}, f"listening on {sorted(listening)}")
    return f"{len(series)} series, no key or address in them, on loopback only"


def _canaries(stage: Stage) -> list[str]:
    plan = stage.lab.plan
    inner = [str(address) for s in plan.subscribers for address in (s.inner_ipv4, s.inner_ipv6)]
    outer = [str(address.ip) for s in plan.subscribers for address in (s.outer_ipv4, s.outer_ipv6)]
    return [key for key in stage.lab.public_keys if key] + inner + outer + list(plan.exit_ipv4 + plan.exit_ipv6)


def nothing_leaked(stage: Stage) -> str:
    """Over the whole demo no packet with an inner source, or one inside an ICMP error, was on the wire."""
    leaks, lost = stage.watch.leaks(), stage.watch.lost()
    require(not leaks, f"{len(leaks)} packets: {sorted(set(leaks))[:3]}")
    require(not lost, f"the capture lost {lost} suspects")
    return "the capture on the internet's side saw none"
