"""Subscribers of a node as they might be: heavy-tailed volumes, a daily and a weekly rhythm, growth. Drawn with a seed.

A model, not a measurement: nobody's traffic was looked at. What the study asks of it is only that a few subscribers
move most of the bytes and that the evening is busy, which is what makes clips and noise hard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_HOURS = np.array(
    [5, 3, 2, 2, 2, 3, 5, 8, 11, 13, 14, 15, 16, 15, 15, 16, 18, 21, 25, 28, 29, 26, 18, 10], dtype=np.float64
)
_RHYTHM = _HOURS / _HOURS.max()
"""How busy an hour of UTC is, beside the busiest."""
_WEEK = np.array([1.0, 0.97, 0.97, 0.99, 1.06, 1.18, 1.15])
_BUSIEST = 0.6
"""Part of the subscribers who are there in the busiest hour of an ordinary day."""
_MEDIAN_BYTES, _SPREAD = 900e6, 1.6
"""Of a subscriber's day, down; log-normal: the mean is 3.6 times the median, one in a hundred has 41 times."""
_UP = 0.12
_SLOTS_OF_AN_HOUR = 30


@dataclass(frozen=True, slots=True)
class Day:
    """What one day would tell exactly. Sums are as the kernel makes them: of each peer up to its clip."""

    active: tuple[int, ...]  # peers, hour by hour
    sums: Mapping[str, int]  # of the day's other quantities
    unclipped: Mapping[str, int]  # bytes as they really were


def days(peers: int, count: int, *, growth: float, clips: Mapping[str, int], seed: int) -> Iterator[Day]:
    """So many days of a node that begins with `peers` subscribers and gains `growth` of that number each day."""
    chance = np.random.default_rng(seed)
    most = round(peers * (1 + growth * count)) + 1
    weight = chance.lognormal(np.log(_MEDIAN_BYTES), _SPREAD, most)
    presence = chance.beta(4, 2, most) / (4 / 6)
    for number in range(count):
        here = round(peers * (1 + growth * number))
        likely = np.minimum(_BUSIEST * _WEEK[number % 7] * presence[:here, None] * _RHYTHM[None, :], 1)
        there = chance.random((here, 24)) < likely
        hours = there.sum(axis=1)
        down = weight[:here] * _WEEK[number % 7] * hours / (_BUSIEST * _RHYTHM.sum()) * chance.lognormal(0, 0.5, here)
        up = down * _UP * chance.lognormal(0, 0.6, here)
        yield _day(there, np.floor(down), np.floor(up), clips)


def _day(there: NDArray[np.bool_], down: NDArray[np.float64], up: NDArray[np.float64], clips: Mapping[str, int]) -> Day:
    return Day(
        active=tuple(int(n) for n in there.sum(axis=0)),
        sums={
            "up_bytes": int(np.minimum(up, clips["up_bytes"]).sum()),
            "down_bytes": int(np.minimum(down, clips["down_bytes"]).sum()),
            "up_clipped_peers": int((up > clips["up_bytes"]).sum()),
            "down_clipped_peers": int((down > clips["down_bytes"]).sum()),
            "handshakes": int(np.minimum(there.sum(axis=1) * _SLOTS_OF_AN_HOUR, clips["handshakes"]).sum()),
        },
        unclipped={"up_bytes": int(up.sum()), "down_bytes": int(down.sum())},
    )
