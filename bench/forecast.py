"""When a node is full: a straight line and a week's rhythm, fitted by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HORIZON = 365
"""Days: what lies beyond is not said."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Value on day t: level + slope · t + rhythm[t mod 7], the rhythm being zero on average."""

    level: float
    slope: float
    rhythm: tuple[float, ...]

    def at(self, day: int) -> float:
        """The fitted value."""
        return self.level + self.slope * day + self.rhythm[day % 7]

    def full_after(self, capacity: float, today: int) -> int:
        """Days from `today` until the fit first reaches the capacity, HORIZON when it does not within that time."""
        return next((day for day in range(HORIZON) if self.at(today + day) >= capacity), HORIZON)


def fit(values: Sequence[float]) -> Fit:
    """One value a day, three weeks or more of them, from day 0."""
    time = np.arange(len(values))
    weekday = np.eye(7)[time % 7]
    columns = np.column_stack([time, weekday])
    (slope, *offsets), *_ = np.linalg.lstsq(columns, np.asarray(values, dtype=np.float64), rcond=None)
    level = float(np.mean(offsets))
    return Fit(level, float(slope), tuple(float(offset) - level for offset in offsets))
