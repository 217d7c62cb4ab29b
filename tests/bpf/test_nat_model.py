"""The programs beside a model of a NAT: packet by packet, with whatever hypothesis thinks of.

    pytest tests/bpf/test_nat_model.py                              # a minute in all
    JETPLANE_MODEL_EXAMPLES=20000 pytest tests/bpf/test_nat_model.py --timeout 36000   # a long run

A failure prints the steps that lead to it, as short as can be found, and what the programs and the model say of the
last packet. External ports are drawn by chance, so the same steps may meet others the next time.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.bpf.conftest import NodeFactory
from tests.bpf.harness import Node, inside
from tests.bpf.nat_replay import SECOND_TUNNEL, UPLINK, Replay
from tests.bpf.nat_steps import Change, ErrorIn, In, Look, Out, OutElsewhere, Step, Sweep, Wait, steps

EXAMPLES = int(os.environ.get("JETPLANE_MODEL_EXAMPLES", "25"))
MODES: dict[str, dict[str, Any]] = {
    "endpoint-independent": {"filtering": "endpoint-independent", "inbound_refresh": True},
    "address": {"filtering": "address"},
    "address-and-port": {"filtering": "address-and-port", "block_quota": 1},
}
TIMERS = {"udp_timeout": 150, "icmp_timeout": 90, "tcp_transitory_timeout": 270, "tcp_established_timeout": 7470}
"""Steps of time are multiples of a minute: no age comes within 30 s of a timer, however slow the machine."""


@pytest.fixture(scope="module", params=MODES, ids=str)
def node(request: pytest.FixtureRequest, make_node: NodeFactory) -> Node:
    nat = {"max_bindings": 4096, "max_remotes": 4096, **TIMERS, **MODES[request.param]}
    made = make_node(uplink=UPLINK, witness=True, nat=nat)
    with inside(made.namespace):
        add = ["ip", "link", "add", "name", "second", "index", str(SECOND_TUNNEL), "type", "veth"]
        subprocess.run(add, check=True, timeout=10)
    return made


def tcp(site: int, flags: str) -> Out:
    return Out(4, "tcp", 0, 0, site, 0, Look(flags=flags))


def udp(site: int) -> Out:
    return Out(6, "udp", 0, 0, site, 0, Look())


def ping(site: int) -> Out:
    return Out(4, "icmp", 0, 0, site, 0, Look())


STORIES: dict[str, list[Step]] = {
    "a query's time is over": [ping(0), Wait(60), In(0, 0, 0, Look()), Wait(60), In(0, 0, 0, Look()), Sweep()],
    "a datagram's time is longer": [udp(0), Wait(120), In(0, 0, 0, Look()), Wait(60), In(0, 0, 0, Look()), Sweep()],
    "what leaves makes it live on": [udp(0), Wait(120), udp(1), Wait(120), In(0, 0, 0, Look()), Wait(60), udp(0)],
    "half open": [tcp(0, "S"), Wait(240), In(0, 0, 0, Look()), Wait(60), In(0, 0, 0, Look(flags="SA"))],
    "open": [tcp(0, "S"), In(0, 0, 0, Look(flags="SA")), Wait(7440), In(0, 0, 0, Look()), Wait(60), tcp(0, "A")],
    "reset from outside": [tcp(0, "S"), In(0, 0, 0, Look(flags="SA")), In(0, 0, 0, Look(flags="R"))],
    "another subscriber at the same place": [udp(0), Change(0, "renew"), In(0, 0, 0, Look()), udp(0)],
    "removed, and back": [udp(0), Change(0, "remove"), In(0, 0, 0, Look()), udp(0), Change(0, "return"), udp(0)],
    "errors about a subscriber who is gone": [
        udp(0),
        ping(0),
        Change(0, "remove"),
        *(ErrorIn(at, 0, 0, 0, 1, None, Look(), wrong) for at in (0, 1) for wrong in ("", "destination", "direction")),
    ],
    "segments too large for the tunnel": [
        Out(version, "tcp", 0, 0, 0, 0, Look(flags="S", mss=65535))
        if way == "out"
        else In(at, 0, 0, Look(flags="SA", mss=1400))
        for at, version in enumerate((4, 6))
        for way in ("out", "in")
    ],
    "from nowhere": [udp(0), Out(6, "udp", 0, 0, 0, 0, Look(), "tunnel"), In(0, 0, 0, Look())],
    "by the other tunnel": [Out(4, "udp", 2, 0, 0, 0, Look()), In(0, 0, 0, Look())],
    "the last hop to the node's own address": [OutElsewhere(4, "udp", 0, 0, 0, Look(ttl=1))],
    "whose time is over, to the node's own address": [
        Out(4, "udp", 0, 1, 0, 0, Look()),
        Wait(300),
        OutElsewhere(4, "udp", 0, 1, 0, Look()),
        Sweep(),
    ],
    "one of two connections ends": [
        tcp(0, "S"),
        In(0, 0, 0, Look(flags="SA")),
        tcp(1, "S"),
        In(0, 1, 0, Look(flags="SA")),
        tcp(0, "FA"),
        In(0, 0, 0, Look(flags="FA")),
    ],
    "one of two connections is reset": [tcp(0, "S"), In(0, 0, 0, Look(flags="SA")), tcp(1, "S"), tcp(0, "R")],
    "closed and opened again to another": [
        tcp(0, "S"),
        In(0, 0, 0, Look(flags="SA")),
        tcp(0, "FA"),
        In(0, 0, 0, Look(flags="FA")),
        tcp(1, "S"),
        In(0, 0, 0, Look(flags="A")),
        In(0, 1, 0, Look(flags="SA")),
    ],
}
"""What went wrong once, or easily would."""


@pytest.mark.parametrize("name", STORIES)
def test_the_programs_do_in_a_story_what_the_model_says(node: Node, name: str) -> None:
    if difference := play(node, STORIES[name]):
        pytest.fail(f"the programs and the model differ: {difference}", pytrace=False)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(story=steps)
def test_the_programs_do_what_the_model_says(node: Node, story: list[Step]) -> None:
    if difference := play(node, story):
        short, difference = shortened(node, story, difference)
        pytest.fail("\n".join(["the programs and the model differ:", *map(repr, short), difference]), pytrace=False)


def play(node: Node, story: list[Step]) -> str:
    """Play the steps on an empty node; return how programs and model differ, or ""."""
    node.reset()
    replay = Replay(node)
    try:
        for step in story:
            replay.play(step)
        replay.finish()
    except AssertionError as difference:
        return str(difference) or repr(difference)
    return ""


def shortened(node: Node, story: list[Step], difference: str) -> tuple[list[Step], str]:
    """Leave out what is not needed. hypothesis' own shrinking takes a failure for flaky: ports are drawn by chance."""
    for place in reversed(range(len(story))):
        fewer = story[:place] + story[place + 1 :]
        if still := play(node, fewer):
            story, difference = fewer, still
    return story, difference
