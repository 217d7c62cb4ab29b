"""What the commands of this folder have in common: who may run them, how they tell progress, and how they fail."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from jetplane.errors import JetplaneError, RequirementError

_BEGAN = time.monotonic()


def say(line: str) -> None:
    """Tell progress on standard error, with the seconds since the start."""
    print(f"{time.monotonic() - _BEGAN:6.1f} s  {line}", file=sys.stderr, flush=True)


def run(work: Callable[[], int], *, root: bool = True) -> int:
    """The exit status of the work. What it raises is one line; an interrupt is 130."""
    try:
        if root and os.geteuid() != 0:
            raise RequirementError("bench: needs root", hint="run it with sudo")
        return work()
    except JetplaneError as error:
        print(f"{error}{f' ({error.hint})' if error.hint else ''}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
