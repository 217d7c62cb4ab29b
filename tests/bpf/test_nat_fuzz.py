"""Mutated packets through every program. The laws they are held against are tests/bpf/fuzz/laws.py.

    pytest -s tests/bpf/test_nat_fuzz.py                                            # a slice, from a fresh seed
    JETPLANE_FUZZ_PACKETS=1000000 pytest -s --timeout 3600 tests/bpf/test_nat_fuzz.py   # `make fuzz`: on every CPU
    JETPLANE_FUZZ_SEED=5 JETPLANE_FUZZ_PART=17 pytest -s tests/bpf/test_nat_fuzz.py     # one part again, with care

A failure prints the last of these lines with its own numbers, and the packet.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from tests.bpf.conftest import NodeFactory
from tests.bpf.fuzz.campaign import PART, Campaign, Tally
from tests.bpf.fuzz.corpus import Corpus, corpus
from tests.bpf.harness import Node

PACKETS = int(os.environ.get("JETPLANE_FUZZ_PACKETS", "200000"))
SEED = int(os.environ.get("JETPLANE_FUZZ_SEED", secrets.randbelow(1 << 32)))
ONLY_PART = os.environ.get("JETPLANE_FUZZ_PART")
ENOUGH = 3
"""Failures after which a CPU looks no further."""


@pytest.fixture(scope="module")
def nodes(make_node: NodeFactory) -> list[Node]:
    """One for each CPU, with maps of its own."""
    count = 1 if ONLY_PART else len(os.sched_getaffinity(0))
    return [make_node(peers={"path": "/nowhere", "max": 64 + number}) for number in range(count)]


def test_no_packet_breaks_a_law(nodes: list[Node]) -> None:
    seeds, begin = corpus(), time.monotonic()
    parts = range(-(-PACKETS // PART))
    if ONLY_PART:
        tally = Campaign(nodes[0], seeds, seed=SEED, careful=True).part(int(ONLY_PART))
    else:
        tally = on_every_cpu(nodes, seeds, parts)
    rate = tally.packets / (time.monotonic() - begin)
    print(
        f"\nseed {SEED}: {tally.packets} packets, {rate:.0f} a second, {tally.dropped} dropped by name, "
        f"{tally.translated} translated, {tally.sampled} of these shown to scapy"
    )
    again = f"again: JETPLANE_FUZZ_SEED={SEED} JETPLANE_FUZZ_PART=N pytest -s tests/bpf/test_nat_fuzz.py"
    if tally.failures:
        pytest.fail("\n".join([*tally.failures, again]), pytrace=False)
    assert tally.packets == (PART if ONLY_PART else len(parts) * PART)
    assert tally.translated > tally.packets // 20, "hardly a packet gets through: nothing is tried"


def on_every_cpu(nodes: list[Node], seeds: Corpus, parts: range) -> Tally:
    """Share the parts out among the CPUs, a process and a node each; say now and then how far they are."""
    context = multiprocessing.get_context("fork")
    cpus, total, told = sorted(os.sched_getaffinity(0)), Tally(), 0
    children: dict[Any, BaseProcess] = {}
    for number, (cpu, node) in enumerate(zip(cpus, nodes, strict=True)):
        here, there = context.Pipe(duplex=False)
        mine = parts[number :: len(nodes)]
        child = context.Process(target=_work, args=(there, cpu, node, seeds, mine), daemon=True)
        child.start()
        there.close()
        children[here] = child
    while children:
        ready: list[Any] = wait(children)
        for pipe in ready:
            try:
                total.add(pipe.recv())
            except EOFError:
                children.pop(pipe).join()
        if total.packets >= told + 100_000:
            told = total.packets
            print(f"\n{told} of {len(parts) * PART} packets", end="", flush=True)
    return total


def _work(answer: Connection, cpu: int, node: Node, seeds: Corpus, parts: range) -> None:
    os.sched_setaffinity(0, {cpu})
    campaign, failures = Campaign(node, seeds, seed=SEED), 0
    for part in parts:
        tally = campaign.part(part)
        answer.send(tally)
        failures += len(tally.failures)
        if failures >= ENOUGH:
            break
