"""Turns figures into the bytes that are served, and refuses whatever the manifest does not name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics

from jetplane.errors import JetplaneError
from jetplane.metrics.figures import Figures, Planning
from jetplane.metrics.manifest import BACKENDS, DIRECTIONS, ERROR_KINDS, QUANTITIES, REFUSAL_KINDS, Metric, manifest
from jetplane.metrics.publish import Exposition

Series = Mapping[str, float]
"""Label value → number; the one series of a metric without a label stands under the empty string."""


class RefusedMetric(JetplaneError):
    """A figure does not fit the manifest. Nothing is released."""


def render(figures: Figures) -> Exposition:
    """Render one release. Raises RefusedMetric when a figure is missing or is not on the list.

    The same figures give the same bytes: there is no timestamp, no `_created`, no figure of this process.
    """
    return encode(collect(figures))


def collect(figures: Figures) -> dict[str, Series]:
    """Metric name → series."""
    told = {direction: figures.utilisation.get(direction) for direction in DIRECTIONS}
    shown = {direction: figure for direction, figure in told.items() if figure}
    return {
        "jetplane_build_info": {figures.version: 1},
        "jetplane_configuration_generation": {"": figures.configuration_generation},
        "jetplane_ready": {"": figures.ready},
        "jetplane_in_sync": {"": figures.in_sync},
        "jetplane_wireguard_backend": dict.fromkeys(BACKENDS, 0) | {figures.wireguard_backend: 1},
        "jetplane_peers_configured": {"": figures.peers_configured},
        "jetplane_peer_records_refused": dict.fromkeys(REFUSAL_KINDS, 0) | dict(figures.records_refused),
        "jetplane_peer_source_ok": {"": figures.source_ok},
        "jetplane_program_attached": figures.programs_attached,
        "jetplane_map_capacity_entries": {name: entries for name, (entries, _) in figures.map_capacities.items()},
        "jetplane_map_memory_bytes": {name: size for name, (_, size) in figures.map_capacities.items()},
        "jetplane_invariant_ok": figures.invariants_ok,
        "jetplane_reconcile_errors_total": _by_kind(figures.reconcile_errors),
        "jetplane_utilisation_published": {direction: figure is not None for direction, figure in told.items()},
        "jetplane_capacity_bytes_per_second": {d: f.capacity for d, f in shown.items()},
        "jetplane_utilisation_ratio": {d: round(f.at_least / f.capacity, 4) for d, f in shown.items()},
        "jetplane_utilisation_floor_ratio": {d: round(f.floor / f.capacity, 4) for d, f in shown.items()},
        "jetplane_utilisation_step_ratio": {d: round(f.step / f.capacity, 4) for d, f in shown.items()},
        "jetplane_utilisation_below_floor": {d: f.at_least == 0 for d, f in shown.items()},
        **_planning(figures.planning),
    }


def _planning(told: Planning | None) -> dict[str, Series]:
    """Class D: nothing where the configuration has none."""
    if told is None:
        return {metric.name: {} for metric in manifest().values() if metric.privacy_class == "D"}
    return {
        **{name: {told.use: told.figures[q]} if q in told.figures else {} for q, (name, _) in QUANTITIES.items()},
        "jetplane_noise_standard_deviation": told.sigmas,
        "jetplane_clip": {quantity: told.clips[quantity] for quantity in told.sigmas},
        "jetplane_epoch_seconds": told.lengths,
        "jetplane_released_until_seconds": told.released_until,
        "jetplane_epochs_skipped_total": dict.fromkeys(told.lengths, 0) | dict(told.skipped),
        "jetplane_ledger_ok": {"": told.ledger_ok},
        "jetplane_design_peers": {"": told.design_peers},
        "jetplane_privacy_epsilon": {"": round(told.epsilon, 4)},
        "jetplane_privacy_rho": {"": told.rho},
    }


def _by_kind(errors: Mapping[str, int]) -> dict[str, float]:
    """A failure of a kind that is not listed is still a failure: it counts as other, without its name."""
    counted: dict[str, float] = dict.fromkeys(ERROR_KINDS, 0)
    for kind, number in errors.items():
        counted[kind if kind in counted else "other"] += number
    return counted


def encode(collected: Mapping[str, Series]) -> Exposition:
    """Check every series against the manifest and write both formats."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(tuple(_families(collected))))
    text = exposition.generate_latest(registry)
    return Exposition(text, openmetrics.generate_latest(registry))  # type: ignore[no-untyped-call]


class _Collector:
    """Hands finished families to prometheus_client: no process figures, no platform figures."""

    def __init__(self, families: tuple[Family, ...]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def _families(collected: Mapping[str, Series]) -> Iterator[Family]:
    for name in collected.keys() - manifest().keys():
        raise RefusedMetric(f"metrics: {name} is not in the manifest")
    for metric in manifest().values():
        if metric.name not in collected:
            raise RefusedMetric(f"metrics: {metric.name} is missing")
        series = collected[metric.name]
        _check(metric, series)
        if series:
            yield _family(metric, series)


def _check(metric: Metric, series: Series) -> None:
    """Class A is always complete; class T may lack a direction that cannot be told, class D what is not released."""
    if metric.label is None:
        expected: tuple[str, ...] = ("",)
    elif isinstance(metric.label.values, tuple):
        expected = metric.label.values
    else:
        expected = tuple(value for value in series if metric.label.allows(value))[:1]
    if series.keys() - set(expected):  # the value itself is not repeated: it may be anything
        raise RefusedMetric(f"metrics: {metric.name} has a series that its manifest line does not allow")
    if metric.privacy_class == "A" and (len(series) != len(expected) or not expected):
        raise RefusedMetric(f"metrics: {metric.name} lacks a series that its manifest line promises")


def _family(metric: Metric, series: Series) -> Family:
    labels = [metric.label.key] if metric.label else []
    match metric.kind:
        case "info":
            info = InfoMetricFamily(metric.family, metric.help)
            for value in series:
                info.add_metric([], dict.fromkeys(labels, value))
            return info
        case "counter":
            family: CounterMetricFamily | GaugeMetricFamily = CounterMetricFamily(
                metric.family, metric.help, labels=labels
            )
        case "gauge":
            family = GaugeMetricFamily(metric.family, metric.help, labels=labels)
    for value in sorted(series):  # never the order things happened in
        family.add_metric([value] if labels else [], float(series[value]))
    return family
