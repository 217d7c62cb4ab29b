"""Waiting for something to become true, with a deadline that fits the machine."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import time
from collections.abc import Callable

from jetplane.errors import JetplaneError

_POLL_S = 0.02
_SLOWEST_POLL_S = 0.3
_REST = 3  # so many times as long as a look computed
_NOMINAL_S = 0.02  # what the work in `slowness` takes on an ordinary machine


@functools.cache
def slowness() -> float:
    """How many times slower than an ordinary machine this one is, at least 1: emulated ones are 10 to 30 times.

    The environment variable JETPLANE_SLOWNESS overrides the measurement.
    """
    if said := os.environ.get("JETPLANE_SLOWNESS"):
        return max(1.0, float(said))
    began = time.perf_counter()
    text = b""
    for number in range(10_000):
        text = hashlib.sha256(text + bytes((number & 255,))).digest()
    return min(30.0, max(1.0, (time.perf_counter() - began) / _NOMINAL_S))


def patience(seconds: float) -> float:
    """A deadline that would be `seconds` on an ordinary machine."""
    return seconds * slowness()


def pause(look_s: float = 0.0) -> None:
    """Wait before another look; longer on a slow machine, and after a look that took this process `look_s` of the
    processor, so that looking does not take what it waits for its time."""
    time.sleep(max(min(_SLOWEST_POLL_S, _POLL_S * slowness()), _REST * look_s))


def wait_until(
    what: str,
    holds: Callable[[], bool],
    process: subprocess.Popen[bytes] | None = None,
    *,
    seconds: float = 10.0,
) -> None:
    """Poll until `holds()`; JetplaneError when `patience(seconds)` is over or `process` has ended meanwhile."""
    deadline = time.monotonic() + patience(seconds)
    began = time.process_time()
    while not holds():
        look_s = time.process_time() - began
        if process is not None and process.poll() is not None:
            raise JetplaneError(f"lab: waiting for {what}: the process ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise JetplaneError(f"lab: waiting for {what}: nothing after {patience(seconds):.0f} s")
        pause(look_s)
        began = time.process_time()
