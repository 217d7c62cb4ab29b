"""Runs tests in a guest, by hand, and shows what comes of each as it ends:

    .venv/bin/python -m tests.vm 6.12 tests/netns/test_relay.py::test_neither_node_knows_both_ends

Everything takes thirty times as long there, compiling above all. What was compiled on this machine is not compiled
again, so run the same tests here first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.vm.conftest import LIMIT_S
from tests.vm.guest import Guest
from tests.vm.kernels import CACHE, SERIES, KernelMissing, kernel


def main() -> int:
    """Return pytest's exit status, or 1 when the guest did not come to an end by itself."""
    parser = argparse.ArgumentParser(
        prog="tests.vm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("series", choices=SERIES, help="which of Debian's kernels")
    parser.add_argument("test", nargs="+", help="as pytest is told")
    told = parser.parse_args()
    os.environ.setdefault("CACHE_DIRECTORY", str(CACHE))
    with tempfile.TemporaryDirectory(prefix=f"linux-{told.series}-") as directory:
        shared = Path(directory, "shared")
        shared.mkdir()
        try:
            guest = Guest(kernel(told.series), shared, *told.test, limit=LIMIT_S)
        except KernelMissing as error:
            print(error, file=sys.stderr)
            return 1
        try:
            return _show(guest)
        except TimeoutError:
            print(f"linux {told.series} hung\n{guest.story()}", file=sys.stderr)
            return 1
        finally:
            guest.end()


def _show(guest: Guest) -> int:
    status = None
    for line in guest.lines(time.monotonic() + LIMIT_S):
        match json.loads(line):
            case {"uncollected": str(name), "why": str(why)}:
                print(f"{name}: {why}")
            case {"report": {"nodeid": name, "when": when, "outcome": outcome, "duration": seconds, **more}}:
                if when == "call" or outcome != "passed":
                    print(f"{outcome:8} {seconds:7.1f} s  {name}", flush=True)
                if outcome == "failed":
                    print(json.dumps(more["longrepr"], indent=1))
            case {"finished": int(found)}:
                status = found
    if status is None:
        print(guest.story(), file=sys.stderr)
    return 1 if status is None else status


if __name__ == "__main__":
    sys.exit(main())
