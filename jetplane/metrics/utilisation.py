"""Utilisation as it may be told: coarse steps that at least 50 peers must stand behind (class T).

The proof. The data path polices each peer at a rate R with a burst B, before it counts. Over a window of at least
60 s one peer adds at most R + B/60 a second; call that the share. So a throughput of 50 shares takes 50 peers.

    floor       50 shares; below it nothing is said
    edges       floor, floor + step, floor + 2 step, …; the last lies 3/4 of a step below the capacity
    to rise     to an edge, throughput must pass it by 1/2 to 3/4 of a step
    to fall     from an edge, throughput must come closer to it than 0 to 1/4 of a step

An edge is therefore only told while throughput is above it. The two thresholds are at least a quarter of a step
apart, which is five shares: one peer that goes on and off may move the figure once, and cannot move it back. Both are
drawn at random after each move and kept until the next: thresholds drawn anew each minute could be averaged away.

A step is at least 20 shares, because the others' traffic moves too and a peer can tip it over an edge. A matched
filter over an hour, on a peer that sends at its full rate every other three minutes, has an AUC of 0.64–0.84
with steps of 4 shares, 0.52–0.55 with 16, 0.51–0.53 with 20 (four kinds of background; 0.5 is guessing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from jetplane.metrics.figures import Utilisation

CONTRIBUTORS = 50
WINDOW_S = 60
SHARES_PER_STEP = 20
STEPS = 20
"""At most this many: finer ones would say more than planning needs."""

BELOW_FLOOR = -1

Draw = Callable[[int], int]
"""`draw(n)` returns a number from 0 to n - 1, all equally likely: `secrets.randbelow`."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """The public steps of one direction, bytes per second. They follow from the configuration alone."""

    floor: int
    step: int
    top: int  # number of the last step
    capacity: int

    def edge(self, number: int) -> int:
        """Lower edge of a step; 0 below the floor."""
        return 0 if number == BELOW_FLOOR else self.floor + number * self.step

    def highest(self, throughput: int, margin: int) -> int:
        """The highest step whose edge the throughput passes by the margin."""
        return max(BELOW_FLOOR, min(self.top, (throughput - margin - self.floor) // self.step))


def ladder(*, capacity: int | None, peer_rate: int, peer_burst: int = 0) -> Ladder | None:
    """The steps for a capacity and the highest rate and burst of any plan; None when nothing may be told.

    `peer_rate` in bytes per second, 0 for no limit; `peer_burst` in bytes.
    """
    if not capacity or not peer_rate:
        return None
    share = peer_rate + -(-peer_burst // WINDOW_S)
    floor = CONTRIBUTORS * share
    finest = max(SHARES_PER_STEP * share, capacity // STEPS)
    # (top + 3/4) steps fill the room between floor and capacity, so that a full node always reaches the top.
    top = (4 * (capacity - floor) - 3 * finest) // (4 * finest)
    if top < 0:
        return None
    return Ladder(floor, 4 * (capacity - floor) // (4 * top + 3), top, capacity)


@dataclass(frozen=True, slots=True)
class Meter:
    """What one direction is said to carry, and what deciding the next minute needs."""

    number: int
    rise_margin: int
    fall_margin: int
    total: int  # bytes, when the window began
    since_s: float  # when it began

    def __repr__(self) -> str:
        return "Meter(hidden)"


def start(steps: Ladder, total: int, now_s: float, draw: Draw) -> Meter:
    """Begin below the floor. `total` is the exact byte counter, `now_s` a monotonic clock."""
    return _drawn(steps, Meter(BELOW_FLOOR, 0, 0, total, now_s), draw)


def advance(steps: Ladder, meter: Meter, total: int, now_s: float, draw: Draw) -> Meter:
    """The meter at `now_s`: unchanged before the window of 60 s is over, so asking more often tells no more."""
    elapsed = now_s - meter.since_s
    if elapsed < WINDOW_S:
        return meter
    next_window = replace(meter, total=total, since_s=now_s)
    if total < meter.total:  # the counters were made anew
        return next_window
    throughput = int((total - meter.total) / elapsed)
    rise = steps.highest(throughput, meter.rise_margin)
    fall = steps.highest(throughput, meter.fall_margin)
    if fall < meter.number:
        return _drawn(steps, replace(next_window, number=fall), draw)
    if rise > meter.number:
        return _drawn(steps, replace(next_window, number=rise), draw)
    return next_window


def published(steps: Ladder | None, meter: Meter | None) -> Utilisation | None:
    """The figure to release; None when none may be."""
    if steps is None or meter is None:
        return None
    return Utilisation(steps.capacity, steps.floor, steps.step, steps.edge(meter.number))


def _drawn(steps: Ladder, meter: Meter, draw: Draw) -> Meter:
    quarter = steps.step // 4
    return replace(meter, rise_margin=2 * quarter + draw(quarter), fall_margin=draw(quarter))
