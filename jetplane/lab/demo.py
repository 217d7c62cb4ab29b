"""`jetplane demo`: a real node, real clients, real traffic; what each side saw, and whether it was right."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jetplane.errors import JetplaneError
from jetplane.lab import capture, leftovers, servers, topology, traffic
from jetplane.lab.addresses import NODE_IPV4, NODE_IPV6, TO_NODE, LabOptions
from jetplane.lab.checks import CHECKS
from jetplane.lab.stage import Check, Seen, Stage

SIZE = 32 << 20
"""Bytes of each download."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the result."""

    name: str
    ok: bool
    detail: str


def run(*, as_json: bool, size: int = SIZE, options: LabOptions | None = None) -> int:
    """Build the lab, do every check, show what happened, remove the lab; return the exit status.

    0 only if every check held. With `as_json` people are told on standard error, and the only line on standard
    output is one object: ok, wireguard, checks, seconds. Interrupted, it removes the lab and returns 130.
    """
    console = Console(stderr=as_json, highlight=False)
    traffic.require_programs()
    servers.digest(size)
    began = time.monotonic()
    outcomes: list[Outcome] = []
    kind = "none"
    try:
        with _termination_as_interrupt():
            with topology.lab(options) as lab:
                stage = _stage(lab, size)
                for outcome in _perform(stage, console):
                    outcomes.append(outcome)
                kind = lab.wireguard
            outcomes.append(_nothing_left(lab))
            _say(console, outcomes[-1])
    except KeyboardInterrupt:
        console.print("interrupted; the lab is removed")
        return 130
    seconds = time.monotonic() - began
    ok = all(outcome.ok for outcome in outcomes)
    _summary(console, stage.seen, outcomes, kind, seconds)
    if as_json:
        checks = [asdict(outcome) for outcome in outcomes]
        print(json.dumps({"ok": ok, "wireguard": kind, "checks": checks, "seconds": round(seconds, 1)}), flush=True)
    return 0 if ok else 1


def _stage(lab: topology.Lab, size: int) -> Stage:
    allowed = (*lab.plan.exit_ipv4, *lab.plan.exit_ipv6, str(NODE_IPV4.ip), str(NODE_IPV6.ip))
    return Stage(lab, size, capture.LeakWatch(lab.plan.internet, TO_NODE, allowed))


def _perform(stage: Stage, console: Console) -> Iterator[Outcome]:
    """Do the checks in order. When the node does not even start, the rest is not tried."""
    for number, check in enumerate(CHECKS, 1):
        with _progress(console, f"{number} of {len(CHECKS)}: {check.name}"):
            outcome = _do(check, stage)
        _say(console, outcome)
        yield outcome
        if not outcome.ok and check.vital:
            return


def _do(check: Check, stage: Stage) -> Outcome:
    try:
        return Outcome(check.name, True, check.work(stage))
    except (JetplaneError, OSError) as error:
        return Outcome(check.name, False, str(error))


def _nothing_left(lab: topology.Lab) -> Outcome:
    left = lab.name in leftovers.labs() or any(leftovers.processes(lab.name, set()))
    detail = "something of it is still there" if left else "no namespace, process, mount or file of it remains"
    return Outcome("the demo leaves nothing behind", not left, detail)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let what ends the demo end it the way Ctrl-C does, so that the lab is removed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = [(sign, signal.signal(sign, interrupt)) for sign in topology.ENDING]
    try:
        yield
    finally:
        for sign, handler in before:
            signal.signal(sign, handler)


@contextmanager
def _progress(console: Console, what: str) -> Iterator[None]:
    """A spinner with what is being done, on a terminal only."""
    if not console.is_terminal:
        yield
        return
    with console.status(Text(what, style="cyan")):
        yield


def _say(console: Console, outcome: Outcome) -> None:
    mark = ("✓ ", "green") if outcome.ok else ("✗ ", "bold red")
    console.print(Text.assemble(mark, outcome.name, (f": {outcome.detail}", "dim")), soft_wrap=True)


def _summary(console: Console, seen: list[Seen], outcomes: list[Outcome], kind: str, seconds: float) -> None:
    if seen:
        console.print()
        console.print(_what_each_side_saw(seen))
    failed = [outcome for outcome in outcomes if not outcome.ok]
    console.print()
    console.print(
        f"{len(outcomes) - len(failed)} of {len(outcomes)} checks held in {seconds:.0f} s; WireGuard: {kind}",
        style="bold red" if failed else "bold green",
    )
    for outcome in failed:
        _say(console, outcome)


def _what_each_side_saw(seen: list[Seen]) -> Table:
    table = Table(title="What each side saw", title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    columns: dict[str, Any] = {
        "": "subscriber",
        "into tunnel": "inner",
        "by provider": "outer",
        "out of node": "exit_address",
        "to the site": "site",
        "the site saw": "told",
    }
    for heading in columns:
        table.add_column(heading, no_wrap=True)
    for row in seen:
        table.add_row(*(str(getattr(row, attribute)) for attribute in columns.values()))
    return table
