"""What Prometheus has of the released figures, node by node, each under the epoch that it was released of.

A figure stays until the next one is released. So it is looked at twice an epoch, together with the end of the epoch
that it is of, which the same scrape tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from jetplane.capacity.prometheus import Labels, Prometheus, PrometheusError
from jetplane.metrics import noise
from jetplane.metrics.manifest import QUANTITIES
from jetplane.metrics.noise import DAY_S, EpochName

_NODE: Final = ("region", "instance")
_GONE_S: Final = 2 * DAY_S
"""A node that is silent for so long carries nothing: its capacity is none of its region's."""
_USED: Final = ("active_peers", "up_bytes", "down_bytes", "up_clipped_peers", "down_clipped_peers")


@dataclass(frozen=True, slots=True)
class Node:
    """One node's figures, by quantity and number of the epoch since 1970, and what is public of them."""

    region: str  # "" where there is no such label
    instance: str
    alone: bool  # its design class lets its figures stand by themselves
    told: Mapping[str, Mapping[int, float]]
    deviation: Mapping[str, float]
    capacity: Mapping[str, float]  # by direction, bytes per second; without one that is not known
    design_peers: float


def gather(prometheus: Prometheus, *, now: int, days: int) -> tuple[list[Node], list[tuple[str, str]]]:
    """Every node that has released figures, and those that cannot be used: their names and why.

    Raises PrometheusError.
    """
    window = f"[{days}d]"
    told = {name: _released(prometheus, name, now=now, days=days) for name in _USED}
    if not told["active_peers"]:
        raise PrometheusError(
            f"{prometheus.shown}: has no {QUANTITIES['active_peers'][0]} of the last {days} days",
            hint="it must scrape nodes with metrics.design_peers, see deploy/prometheus/scrape.yml",
        )

    def latest(metric: str, *labels: str, over: str = "last_over_time", of: str = window) -> dict[Labels, float]:
        by = ", ".join((*_NODE, *labels))
        return prometheus.now(f"max by ({by}) ({over}({metric}{of}))", (*_NODE, *labels), now)

    # A clip may have changed: the larger noise is in some of the figures.
    deviations = latest("jetplane_noise_standard_deviation", "quantity", over="max_over_time")
    capacities = latest("jetplane_capacity_bytes_per_second", "direction")
    designs, lengths = latest("jetplane_design_peers"), latest("jetplane_epoch_seconds", "epoch")
    nodes, left_out = [], []
    for region, instance, use in sorted(told["active_peers"]):
        own = {labels[2:]: length for labels, length in lengths.items() if labels[:2] == (region, instance)}
        if own != {(epoch,): float(length) for epoch, length in noise.EPOCHS.items()}:
            left_out.append((instance, "its epochs are not an hour and a day: such figures are for labs"))
            continue
        if max(told["active_peers"][region, instance, use], default=0) < (now - _GONE_S) // noise.EPOCHS["active"]:
            left_out.append((instance, "has released nothing for two days"))
            continue
        nodes.append(
            Node(
                region,
                instance,
                alone=use == "node",
                told={name: figures.get((region, instance, use), {}) for name, figures in told.items()},
                deviation={q: sigma for (r, i, q), sigma in deviations.items() if (r, i) == (region, instance)},
                capacity={w: c for (r, i, w), c in capacities.items() if (r, i) == (region, instance) and c > 0},
                design_peers=designs.get((region, instance), 0),
            )
        )
    return nodes, left_out


def _released(prometheus: Prometheus, name: str, *, now: int, days: int) -> dict[Labels, dict[int, float]]:
    """(region, instance, use) → epoch → figure."""
    epoch: EpochName = noise.QUANTITIES[name].epoch
    length = noise.EPOCHS[epoch]
    figures = _twice(prometheus, QUANTITIES[name][0], (*_NODE, "use"), now=now, days=days, length=length)
    released_until = f'jetplane_released_until_seconds{{epoch="{epoch}"}}'
    ends = _twice(prometheus, released_until, _NODE, now=now, days=days, length=length)
    return {labels: dict(_by_epoch(course, ends.get(labels[:2], {}), length)) for labels, course in figures.items()}


def _twice(
    prometheus: Prometheus, metric: str, labels: Labels, *, now: int, days: int, length: int
) -> dict[Labels, dict[int, float]]:
    half = length // 2
    query = f"max by ({', '.join(labels)}) (last_over_time({metric}[{half}s]))"
    return prometheus.course(query, labels, now - days * DAY_S, now, half)


def _by_epoch(course: Mapping[int, float], ends: Mapping[int, float], length: int) -> Iterator[tuple[int, float]]:
    for at, figure in course.items():
        if at in ends:
            yield int(ends[at]) // length - 1, figure
