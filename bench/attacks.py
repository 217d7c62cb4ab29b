"""`python -m bench.attacks`: what subscribers notice of floods, and what a blocklist costs. Needs root.

Writes bench/results/attacks.{json,md,svg}.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import blocklists, disturbed, handshakes, results
from bench.command import run, say
from bench.plot import plot_attacks
from bench.results import Row

ROUNDS, QUICK_ROUNDS = 9, 3
PACKETS, QUICK_PACKETS = 300_000, 100_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, print the table."""
    parser = argparse.ArgumentParser(prog="bench.attacks", description="floods and blocklists, on a node that works")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, about three minutes")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--output", type=Path, default=results.DIRECTORY, help="where attacks.* go")
    options = parser.parse_args(arguments)
    return run(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    head = results.header(quick=options.quick)
    head["notes"] = [
        "Download under flood and blocklist: transport veth, the data plane without cryptography. Not a VPN.",
        "Handshake flood: the WireGuard that this machine has; real clients, real sessions.",
    ]
    rows = list(_run(rounds, QUICK_PACKETS if options.quick else PACKETS))
    results.write(options.output, head, rows, name="attacks")
    plot_attacks(options.output / "attacks.svg", rows, f"{head['cpu']}, Linux {head['kernel']}, {head['date']}")
    print(results.markdown(head, rows))
    return 0


def _run(rounds: int, packets: int) -> Iterator[Row]:
    yield from blocklists.measure(rounds=rounds, packets=packets, say=say)
    yield from handshakes.measure(rounds=rounds, say=say)
    yield from disturbed.measure(rounds=rounds, say=say)


if __name__ == "__main__":
    sys.exit(main())
