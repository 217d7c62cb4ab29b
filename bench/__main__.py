"""`python -m bench`: runs every bench and writes bench/results/latest.{json,md,svg}. Needs root."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import (
    bindings,
    bulk,
    cores,
    fairness,
    flood,
    forwarding,
    programs,
    relayed,
    results,
    scrapes,
    shaping,
)
from bench.command import run, say
from bench.contenders import contenders
from bench.plot import plot
from bench.results import Row
from jetplane.errors import JetplaneError

QUICK, FULL = (3, 100_000), (11, 300_000)
"""Rounds, and packets of each measurement."""
_BULK_ROUNDS = 7
"""Of TCP, which takes a second each time."""


def _flood(*, rounds: int, say: Callable[[str], None]) -> Iterator[Row]:
    with contenders() as made:
        yield from flood.measure(made, rounds=rounds, packets=FULL[1], say=say)


def _relay(*, rounds: int, say: Callable[[str], None]) -> Iterator[Row]:
    return relayed.measure(rounds=rounds, packets=FULL[1], say=say)


_APART: dict[str, Callable[..., Iterator[Row]]] = {
    "flood": _flood,
    "relay": _relay,
    "fairness": fairness.measure,
    "policing": shaping.measure,
    "scrape": scrapes.measure,
}
"""Benches that can be run by themselves, by what their rows say."""
_APART_ROUNDS = {"policing": 5, "scrape": 5}
"""Of those that take a minute a round."""
_IDLE_ENOUGH = 0.85
"""Two cores are measured by the clock on the wall: whoever else uses the machine would be measured, too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, print the table."""
    parser = argparse.ArgumentParser(
        prog="bench", description="jetplane beside its rivals, on one topology, in one run"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, about two minutes")
    parser.add_argument(
        "--vm", action="store_true", help="instead: behind the kernel's WireGuard, in a guest, written to vm.*"
    )
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument(
        "--only",
        action="append",
        choices=_APART,
        help="nothing but this; its rows take the place of those that are in latest.* (may be given more than once)",
    )
    parser.add_argument("--output", type=Path, default=results.DIRECTORY, help="where latest.* go")
    options = parser.parse_args(arguments)
    return run(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    rounds, packets = QUICK if options.quick else FULL
    head = results.header(quick=options.quick)
    if options.vm:
        rows, head["notes"] = _in_guests(), _NOTES_OF_GUESTS
        results.write(options.output, head, rows, name="vm")
        print(results.markdown(head, rows))
        return 0
    if options.only:
        measured = [row for name in dict.fromkeys(options.only) for row in _apart(name, options.rounds or rounds)]
        _plot(options.output, *results.merge(options.output, head, measured))
        print(results.markdown(head, measured))
        return 0
    notes = _notes()
    rows = list(_run(options.rounds or rounds, packets, notes, full=not options.quick))
    head["notes"] = notes
    results.write(options.output, head, rows)
    _plot(options.output, head, rows)
    print(results.markdown(head, rows))
    return 0


def _plot(directory: Path, head: dict[str, object], rows: Sequence[Row]) -> None:
    plot(directory / "latest.svg", rows, f"{head['cpu']}, Linux {head['kernel']}, {head['date']}")


def _in_guests() -> list[Row]:
    from bench import guests  # needs what tests/vm needs

    return [row for series in guests.SERIES for row in guests.measure(series, say=say)]


_NOTES_OF_GUESTS = [
    "Measured in a guest with one emulated processor whose clock counts instructions; the CPU named above only ran it.",
    "Source, node with the kernel's WireGuard, and sink share the processor. The subscriber had encrypted before.",
]


def _run(rounds: int, packets: int, notes: list[str], *, full: bool) -> Iterator[Row]:
    with contenders() as made, forwarding.laid(made) as laid:
        forwarding.check(laid, say)
        yield from forwarding.measure(laid, cores.ONE_CORE, rounds=rounds, packets=packets, say=say)
        yield from bindings.fresh(laid.courses, rounds=rounds, say=say)
        yield from bindings.memory(laid.courses, say=say)
        yield from bulk.measure(made, rounds=min(rounds, _BULK_ROUNDS), say=say)
        yield from flood.measure(made, rounds=rounds, packets=packets, say=say)
        yield from relayed.measure(rounds=rounds, packets=packets, say=say)
        yield from programs.in_traffic(laid.courses[0], rounds=rounds, packets=packets, say=say)
        yield from programs.by_verdict(laid.courses[0], rounds=rounds, say=say)
        if cores.TWO_CORES not in cores.placements():
            notes.append("Two cores were not measured: there is one.")
        elif (idle := cores.idle_share()) < _IDLE_ENOUGH:
            notes.append(f"Two cores were not measured: others used {1 - idle:.0%} of this machine.")
        else:
            cores.give_nodes_their_own(made)
            yield from forwarding.measure(laid, cores.TWO_CORES, rounds=rounds, packets=2 * packets, say=say)
    try:
        yield from [*_apart("fairness", rounds)]  # all of its rows or none
    except fairness.TooBusyError as error:
        notes.append(f"Fairness was not measured: {error}")
    if full:
        yield from _apart("policing", rounds)
        yield from _apart("scrape", rounds)
        try:
            yield from bindings.million(rounds=rounds, say=say)
        except JetplaneError as error:
            notes.append(f"A million bindings were not measured: {error}")
    else:
        notes.append("Policing, scrapes and a million bindings are measured in the full run only.")


def _apart(name: str, rounds: int) -> Iterator[Row]:
    yield from _APART[name](rounds=min(rounds, _APART_ROUNDS.get(name, rounds)), say=say)


def _notes() -> list[str]:
    return [
        "Transport veth: the data plane without cryptography. Not a VPN.",
        "Frames of 64 bytes (IPv4) and 76 bytes (IPv6), check sequence included.",
        "Before anything was timed, packets were taken on both sides: translated as they should be, checksums right.",
    ]


if __name__ == "__main__":
    sys.exit(main())
