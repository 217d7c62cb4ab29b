"""From released figures to "full in 19 days", for each region and each node that is large enough.

Peers: the mean of the three busiest hours, beside what the nodes are designed for. Bytes: a day tells its sum, and what
fills a line is the busiest hours; so a day's mean is multiplied by how much busier with peers those are than others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from jetplane.capacity import forecast
from jetplane.capacity.figures import Node, gather
from jetplane.capacity.forecast import HORIZON
from jetplane.capacity.prometheus import Prometheus, PrometheusError
from jetplane.metrics.manifest import DIRECTIONS
from jetplane.metrics.noise import DAY_S

DAYS: Final = 42
"""How far back is looked by default: six of each weekday, and no older growth."""

_HOURS: Final = 24
BUSY_HOURS: Final = 3
_ENOUGH: Final = 0.9
"""Part of a region's nodes that must have told of a time; the sum is made that of all."""
_CLEAR: Final = 4.0
"""Deviations that a mean must be above nought: else it is noise."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """One quantity by its line: today, and when it reaches the capacity. Errors are halves of 95 % intervals."""

    quantity: str  # "active_peers", "up" or "down"
    unit: str  # "peers" or "bytes per second"
    today: float
    today_error: float
    a_day: float
    a_day_error: float
    capacity: float | None  # None: not known
    days: tuple[int | None, int | None, int | None]  # until full: earliest, by the line, latest; None: not foreseen
    clipped_peers: float = 0  # a day, whose bytes are not all counted; 0 where noise hides them


@dataclass(frozen=True, slots=True)
class Place:
    """A region or a node."""

    name: str
    kind: str  # "region" or "node"
    nodes: int
    days: int  # that the forecast is made from
    forecasts: tuple[Forecast, ...]


@dataclass(frozen=True, slots=True)
class Outlook:
    """Everything that there is to say; `left_out` are names and why nothing is said of them."""

    source: str
    places: tuple[Place, ...]
    left_out: tuple[tuple[str, str], ...]


def outlook(url: str, *, now: int, days: int = DAYS) -> Outlook:
    """Ask Prometheus and forecast. `now` is Unix time. Raises PrometheusError, also when nothing can be said at all."""
    prometheus = Prometheus(url)
    nodes, left_out = gather(prometheus, now=now, days=days)
    places = []
    for name, kind, members in _places(nodes):
        try:
            places.append(_place(name, kind, members, now // DAY_S))
        except ValueError as error:
            left_out.append((name, str(error)))
    if not places:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
        raise PrometheusError(f"{prometheus.shown}: nothing can be foreseen: {why}")
    return Outlook(prometheus.shown, tuple(places), tuple(left_out))


def _places(nodes: Sequence[Node]) -> Iterator[tuple[str, str, list[Node]]]:
    for region in sorted({node.region for node in nodes}):
        yield region or "all nodes", "region", [node for node in nodes if node.region == region]
    for node in nodes:
        if node.alone:
            yield node.instance, "node", [node]


def _place(name: str, kind: str, nodes: Sequence[Node], today: int) -> Place:
    """Raises ValueError, which says why there is no forecast."""
    hours = total(nodes, "active_peers")
    noise = _deviation(nodes, "active_peers")
    peaks, factor, factor_deviation = busy(hours, noise)
    fitted = forecast.fit(peaks, noise / math.sqrt(BUSY_HOURS))
    designed = sum(node.design_peers for node in nodes) or None
    forecasts = [_forecast("active_peers", "peers", fitted, designed, today)]
    for way in DIRECTIONS:
        volumes, scale = total(nodes, f"{way}_bytes"), factor / DAY_S
        values = {day: volume * scale for day, volume in volumes.items()}
        bytes_noise = _deviation(nodes, f"{way}_bytes") * scale
        fitted = forecast.fit(values, bytes_noise, scale_deviation=factor_deviation)
        known = [node.capacity[way] for node in nodes if way in node.capacity]
        line = sum(known) if len(known) == len(nodes) else None
        clipped = _clear_mean(total(nodes, f"{way}_clipped_peers"), _deviation(nodes, f"{way}_clipped_peers"))
        forecasts.append(_forecast(way, "bytes per second", fitted, line, today, clipped))
    return Place(name, kind, len(nodes), len(peaks), tuple(forecasts))


def total(nodes: Sequence[Node], quantity: str) -> dict[int, float]:
    """Epoch → sum over the nodes that are there, which is from a node's first figure to its last.

    An epoch of which too few have told is left out; else those that have not are taken for like the others.
    """
    told = [node.told[quantity] for node in nodes if node.told[quantity]]
    lives = [(min(figures), max(figures)) for figures in told]
    sums = {}
    for epoch in sorted(set().union(*told)):
        there = sum(first <= epoch <= last for first, last in lives)
        here = [figures[epoch] for figures in told if epoch in figures]
        if len(here) >= _ENOUGH * there:
            sums[epoch] = math.fsum(here) * there / len(here)
    return sums


def busy(hours: Mapping[int, float], deviation: float) -> tuple[dict[int, float], float, float]:
    """Day → mean of its busiest hours; how many times a day's mean that is; and, as a part of that, its deviation.

    `hours` are active peers by number of the hour, each with noise of this deviation. Raises ValueError.
    """
    by_hour = [[value for epoch, value in hours.items() if epoch % _HOURS == hour] for hour in range(_HOURS)]
    days = len({epoch // _HOURS for epoch in hours})
    if days < forecast.LEAST_DAYS or not all(by_hour):
        raise ValueError(f"{days} days of figures: a forecast needs {forecast.LEAST_DAYS}")
    profile = [math.fsum(values) / len(values) for values in by_hour]
    chosen = forecast.busiest(profile, BUSY_HOURS)
    peak, mean = math.fsum(profile[hour] for hour in chosen) / BUSY_HOURS, math.fsum(profile) / _HOURS
    least = min(map(len, by_hour))
    peak_deviation, mean_deviation = (deviation / math.sqrt(least * count) for count in (BUSY_HOURS, _HOURS))
    if mean < _CLEAR * mean_deviation:
        raise ValueError("so few peers that noise is all that the figures show")
    peaks = {
        day: math.fsum(hours[day * _HOURS + hour] for hour in chosen) / BUSY_HOURS
        for day in sorted({epoch // _HOURS for epoch in hours})
        if all(day * _HOURS + hour in hours for hour in chosen)
    }
    return peaks, peak / mean, math.hypot(peak_deviation / peak, mean_deviation / mean)


def _deviation(nodes: Sequence[Node], quantity: str) -> float:
    """Of the sum's noise: independent from node to node, so that variances add up. Raises ValueError."""
    if any(quantity not in node.deviation for node in nodes):
        raise ValueError("how much noise its figures carry is not known: jetplane_noise_standard_deviation is missing")
    return math.sqrt(math.fsum(node.deviation[quantity] ** 2 for node in nodes))


def _clear_mean(values: Mapping[int, float], deviation: float) -> float:
    if not values:
        return 0
    mean = math.fsum(values.values()) / len(values)
    return mean if mean > _CLEAR * deviation / math.sqrt(len(values)) else 0


def _forecast(
    quantity: str, unit: str, fitted: forecast.Fit, capacity: float | None, today: int, clipped: float = 0
) -> Forecast:
    days: list[int | None] = [None, None, None]
    if capacity is not None:
        found = (fitted.full_after(capacity, today, bars=bars) for bars in (1, 0, -1))
        days = [day if day < HORIZON else None for day in found]
    return Forecast(
        quantity,
        unit,
        fitted.at(today),
        fitted.error(today),
        fitted.slope,
        fitted.slope_error,
        capacity,
        (days[0], days[1], days[2]),
        clipped,
    )
