"""When something is full: a straight line and a week's rhythm, fitted by least squares, with error bars. Pure.

Within a weekday, value and time are compared with their means of that weekday: that takes the rhythm out, and the
slope, the mean of a weekday and their errors are sums (Frisch and Waugh, 1933). A value's error is what the noise's
published standard deviation says or what the values scatter about the line, whichever is more: noise is not all that
makes a day unlike the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

HORIZON: Final = 365
"""Days: what lies beyond is not said."""

LEAST_DAYS: Final = 21
"""Three of each weekday."""

_WEEK = 7
_PARAMETERS = 1 + _WEEK
_NORMAL_95 = 1.959964
"""Standard deviations on either side: 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Weekday:
    """Where the line stands on one weekday."""

    day: float  # mean of its days
    value: float
    count: int


@dataclass(frozen=True, slots=True)
class Fit:
    """Value on day t: that of its weekday + slope · (t - the weekday's mean day)."""

    weekdays: tuple[Weekday, ...]  # by day mod 7
    slope: float  # a day
    spread: float  # sum of squares of what the days differ from their weekdays' means
    deviation: float  # of a single value
    bars: float  # deviations on either side that make 95 %
    scale_error: float = 0  # half of the 95 % interval of a factor that all values have, as a part of it

    @property
    def slope_error(self) -> float:
        """Half of the slope's 95 % interval."""
        return self.bars * self.deviation / math.sqrt(self.spread)

    def at(self, day: int) -> float:
        """The fitted value."""
        weekday = self.weekdays[day % _WEEK]
        return weekday.value + self.slope * (day - weekday.day)

    def error(self, day: int) -> float:
        """Half of the fitted value's 95 % interval: the line's own, a single day scatters about it."""
        weekday = self.weekdays[day % _WEEK]
        own = self.bars * self.deviation * math.sqrt(1 / weekday.count + (day - weekday.day) ** 2 / self.spread)
        return math.hypot(own, self.scale_error * self.at(day))

    def full_after(self, capacity: float, today: int, *, bars: float = 0) -> int:
        """Days from `today` until the line first reaches the capacity; HORIZON when it does not within that time.

        With `bars` 1 the upper end of its interval, which comes first, with -1 the lower.
        """
        days = range(today, today + HORIZON)
        return next((day - today for day in days if self.at(day) + bars * self.error(day) >= capacity), HORIZON)


def fit(values: Mapping[int, float], deviation: float = 0, *, scale_deviation: float = 0) -> Fit:
    """Fit one value a day, by the day's number; days may be missing.

    `deviation` is the known standard deviation of each, `scale_deviation` that of a factor which all have, as a part
    of it. Raises ValueError for fewer than LEAST_DAYS days, or when a
    weekday is missing altogether.
    """
    by_weekday = [[day for day in values if day % _WEEK == number] for number in range(_WEEK)]
    if len(values) < LEAST_DAYS or not all(by_weekday):
        raise ValueError(f"{len(values)} days, not {LEAST_DAYS} or more with every weekday among them")
    means = [Weekday(_mean(days), _mean([values[day] for day in days]), len(days)) for days in by_weekday]
    apart = {day: day - means[day % _WEEK].day for day in values}
    spread = math.fsum(x * x for x in apart.values())
    slope = math.fsum(x * (values[day] - means[day % _WEEK].value) for day, x in apart.items()) / spread
    left = math.fsum((values[day] - means[day % _WEEK].value - slope * x) ** 2 for day, x in apart.items())
    free = len(values) - _PARAMETERS
    scatter = math.sqrt(left / free)
    bars = _NORMAL_95 if deviation >= scatter else _student_95(free)
    return Fit(tuple(means), slope, spread, max(deviation, scatter), bars, _NORMAL_95 * scale_deviation)


def _student_95(freedom: int) -> float:
    """The same of Student's distribution, for a deviation that was estimated; from 10 on right to two digits."""
    return _NORMAL_95 + 2.4 / freedom + 2.8 / freedom**2


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def busiest(profile: Sequence[float], hours: int = 3) -> tuple[int, ...]:
    """Which places of a day's profile are the busiest. To be asked of a mean over days.

    The largest figures of each single day would be those that the noise made large.
    """
    return tuple(sorted(sorted(range(len(profile)), key=lambda place: -profile[place])[:hours]))
