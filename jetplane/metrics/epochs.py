"""Epochs by the UTC clock: which one it is, and whether one that ends was whole. Pure: clocks are arguments.

An epoch is whole when its figures are those of its time: opened at its beginning, closed at its end, and in between
the wall clock advanced as CLOCK_BOOTTIME did, which nobody can set and which goes on while the machine is suspended.
What is not whole is skipped. The kernel's number of an epoch counts up with each one opened, whatever the clock does:
it never goes back, so nothing that belonged to one epoch is ever taken for another's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Self

NUMBERS: Final = 1 << 24
"""The kernel's numbers wrap here: with epochs of an hour in 1,900 years, of a second in half a year."""

MOST_TOLERANCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Clocks:
    """Both clocks at one moment, in seconds."""

    wall: float  # CLOCK_REALTIME: Unix time
    boot: float  # CLOCK_BOOTTIME

    @classmethod
    def now(cls) -> Self:
        """Read them."""
        return cls(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))


@dataclass(frozen=True, slots=True)
class Opening:
    """One epoch as it was opened."""

    number: int  # the kernel's, below NUMBERS
    start: int  # Unix seconds: where it begins by the clock, whenever it was opened
    length: int  # seconds
    at: Clocks

    @property
    def end(self) -> int:
        """Where it ends by the clock, Unix seconds."""
        return self.start + self.length


def tolerance(length: int) -> float:
    """How late opening and closing may be, and by how much the clocks may differ, in seconds."""
    return min(MOST_TOLERANCE_S, length / 4)


def start_of(wall: float, length: int) -> int:
    """Where the epoch that a moment lies in begins."""
    return int(wall // length) * length


def open_at(now: Clocks, length: int, number: int) -> Opening:
    """Open the epoch of this moment under a number of the kernel's."""
    return Opening(number, start_of(now.wall, length), length, now)


def is_over(opening: Opening, now: Clocks) -> bool:
    """Whether this moment lies in another epoch: a later one, or an earlier one when the clock was set back."""
    return start_of(now.wall, opening.length) != opening.start


def why_not_whole(opening: Opening, now: Clocks) -> str:
    """What is wrong with an epoch that is closed at this moment; "" when it is whole."""
    tolerated = tolerance(opening.length)
    advanced, passed = now.wall - opening.at.wall, now.boot - opening.at.boot
    if not 0 <= opening.at.wall - opening.start <= tolerated:
        return "it was not opened at its beginning"
    if abs(advanced - passed) > tolerated:
        return "the clock was set meanwhile"
    if not 0 <= now.wall - opening.end <= tolerated:
        return "it was not closed at its end"
    return ""


def wait(opening: Opening, now: Clocks) -> float:
    """Seconds until it ends, by the clock as it stands; 0 when it is over."""
    return 0.0 if is_over(opening, now) else opening.end - now.wall
