"""`python -m bench --vm`: the benches that need the kernel's own WireGuard, in a guest with Debian's kernel.

One processor, emulated, whose clock counts instructions: what is measured is the same on every run and every machine.
An instruction is not a nanosecond: emulation knows no caches.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.contenders import JETPLANE
from bench.results import Row, compared
from bench.tunnelled import BURST, FLOOD
from jetplane.errors import JetplaneError
from tests.vm.guest import Guest
from tests.vm.kernels import KernelMissing, kernel

SERIES = ("6.12",)
_LIMIT_S = 20 * 60


def measure(series: str, *, say: Callable[[str], None]) -> Iterator[Row]:
    """Boot a guest, let it measure, make rows of what it says."""
    found = {report["name"]: report for report in _reports(series, say)}
    for name, report in found.items():
        if "error" in report:
            raise JetplaneError(f"bench: linux {series}: {name}: {report['error']}")
    own = found.pop(JETPLANE)
    for name, rival in found.items():
        yield compared(
            f"behind WireGuard, Linux {series}", f"IPv4 UDP of 46 bytes, bursts of {BURST}", "instructions/packet",
            own["instructions"], name, rival["instructions"],
        )  # fmt: skip
    for name, rival in found.items():
        yield compared(
            f"behind WireGuard, Linux {series}", f"{FLOOD:,} packets at once, delivered",
            "packets/million instructions", [own["delivered_per_ms"]], name, [rival["delivered_per_ms"]],
        )  # fmt: skip


def _reports(series: str, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="jetplane-bench-") as directory:
        shared = Path(directory, "shared")
        shared.mkdir()
        try:
            image = kernel(series)
        except KernelMissing as error:
            raise JetplaneError(f"bench: {error}") from None
        guest = Guest(image, shared, "--run", "python", "-m", "bench.tunnelled", limit=_LIMIT_S, counted=True)
        seen = 0
        try:
            for line in guest.lines(time.monotonic() + _LIMIT_S):
                report = json.loads(line)
                say(f"linux {series}: {line.strip()}")
                seen += 1
                yield report
        except TimeoutError:
            raise JetplaneError(f"bench: linux {series} hung\n{guest.story()}") from None
        finally:
            story = guest.story()
            guest.end()
        if not seen:
            raise JetplaneError(f"bench: linux {series} said nothing\n{story}")
