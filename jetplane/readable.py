"""Waiting for one file descriptor, by poll(2): select(2) refuses descriptors from 1,024 on."""

from __future__ import annotations

import math
import select
from typing import Protocol


class HasFileno(Protocol):
    """Anything with a descriptor."""

    def fileno(self) -> int: ...


def readable(file: int | HasFileno, seconds: float) -> bool:
    """Wait until there is something to read, or an end (a pidfd's process, a pipe's writer); False after `seconds`."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(max(0, math.ceil(seconds * 1000))))
