"""Starts the short-lived processes that may see a device's dump, in the calling thread's network namespace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jetplane


def start(module: str, *arguments: str, stdout: int, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start `module` as a program whose only voice is `stdout`. Raises OSError.

    A key goes in by `stdin`: everybody can read the arguments of a process.
    """
    # Without site (-S): the child needs no package but ours, and starts in half the time.
    return subprocess.Popen(
        [sys.executable, "-S", "-P", "-m", module, *arguments],
        env={"PYTHONPATH": str(Path(jetplane.__file__).parents[1])},
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
    )
