"""What the controller's process does with its memory."""

from __future__ import annotations

import re
import subprocess
import sys

SCRIPT = """
from pathlib import Path
from jetplane.privacy import process

def say():
    lines = Path("/proc/self/status").read_text().splitlines()
    print(*(line.split()[1] for line in lines if line.startswith(("VmLck", "VmRSS"))))

process.give_back_what_is_free()
say()
process.forbid_swapping()
held = [bytearray(3000) for _ in range(20_000)]
say()
held = held[::50]
say()
process.give_back_what_is_free()
say()
"""


def test_locked_memory_is_given_back_and_stays_locked(root: None) -> None:
    """Lines of KiB: locked, resident. The control: without being told to, the C library keeps what is free."""
    said = subprocess.check_output([sys.executable, "-c", SCRIPT], text=True)
    (no_lock, _), (_, full), (_, kept), (lock, rest) = (
        map(int, re.findall(r"\d+", line)) for line in said.splitlines()
    )
    assert no_lock == 0 < lock
    assert kept > full - 10_000
    assert rest < full - 40_000
