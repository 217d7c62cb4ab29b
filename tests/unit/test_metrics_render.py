"""What is rendered is what the manifest lists: no more, no less, and always the same bytes."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from jetplane import abi, errors
from jetplane.metrics import manifest as listed
from jetplane.metrics import noise
from jetplane.metrics.figures import Figures, Planning, Utilisation, error_kind
from jetplane.metrics.manifest import manifest
from jetplane.metrics.render import RefusedMetric, collect, encode, render
from jetplane.sources.interface import REFUSAL_KINDS

CLASS_T = Utilisation(capacity=1_000_000, floor=500_000, step=40_000, at_least=540_000)


CLASS_D = Planning(
    use="node",
    design_peers=5_000,
    epsilon=0.98962,
    rho=0.014677,
    clips=noise.clips(volume_epoch_s=86_400, up_bytes=10, down_bytes=20),
    sigmas=dict.fromkeys(noise.QUANTITIES, 36),
    lengths=noise.EPOCHS,
    skipped={"active": 2},
    ledger_ok=True,
    figures=dict.fromkeys(noise.QUANTITIES, -3),
    released_until={"active": 1_800_000_000, "volume": 1_799_971_200},
)


def figures(**changes: object) -> Figures:
    whole = Figures(
        version="0.1.0",
        configuration_generation=3,
        ready=True,
        in_sync=False,
        wireguard_backend="kernel",
        peers_configured=10_000,
        programs_attached=dict.fromkeys(listed.PROGRAMS, True),
        map_capacities=dict.fromkeys(abi.maps(), (1024, 65536)),
        invariants_ok=dict.fromkeys(listed.INVARIANTS, True),
        reconcile_errors={"kernel": 2},
        utilisation={"up": CLASS_T, "down": None},
        planning=CLASS_D,
    )
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


def samples(figures: Figures) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample as an independent parser of OpenMetrics reads it."""
    families = parse_openmetrics(render(figures).openmetrics.decode())  # type: ignore[no-untyped-call]
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_every_sample_stands_in_the_manifest_and_every_line_of_it_is_rendered() -> None:
    seen = set()
    for name, labels in samples(figures()):
        metric = manifest()[name]
        seen.add(name)
        assert [key for key, _ in labels] == ([metric.label.key] if metric.label else [])
        assert all(metric.label is not None and metric.label.allows(value) for _, value in labels)
    assert seen == set(manifest())


def test_every_kind_of_refused_record_has_its_series() -> None:
    """The exporter cannot import what refuses records, so the list stands in the manifest, too."""
    assert listed.REFUSAL_KINDS == REFUSAL_KINDS
    rendered = samples(figures(records_refused={"duplicate": 3}, source_ok=False))
    refused = {dict(labels)["kind"]: n for (name, labels), n in rendered.items() if name.endswith("records_refused")}
    assert refused == dict.fromkeys(REFUSAL_KINDS, 0) | {"duplicate": 3}
    assert rendered["jetplane_peer_source_ok", ()] == 0


def test_planning_figures_carry_their_use_their_noise_and_what_they_cost() -> None:
    told = samples(figures())
    assert told["jetplane_active_peers", (("use", "node"),)] == -3, "below zero as drawn: cut off, it would be biased"
    assert told["jetplane_noise_standard_deviation", (("quantity", "active_peers"),)] == 36
    assert told["jetplane_clip", (("quantity", "handshakes"),)] == 720
    assert told["jetplane_epochs_skipped_total", (("epoch", "active"),)] == 2
    assert told["jetplane_epochs_skipped_total", (("epoch", "volume"),)] == 0
    assert told["jetplane_privacy_epsilon", ()] == 0.9896


def test_before_the_first_release_only_its_figures_and_times_are_missing() -> None:
    before = samples(figures(planning=dataclasses.replace(CLASS_D, figures={}, released_until={})))
    missing = {name for name, _ in samples(figures())} - {name for name, _ in before}
    assert missing == {*(name for name, _ in listed.QUANTITIES.values()), "jetplane_released_until_seconds"}


def test_a_node_without_class_d_tells_none_of_it() -> None:
    told = {name for name, _ in samples(figures(planning=None))}
    assert not {name for name in told if manifest()[name].privacy_class == "D"}
    assert {listed.manifest()[name].privacy_class for name in told} == {"A", "T"}


def test_a_node_of_a_small_design_class_is_for_sums() -> None:
    told = samples(figures(planning=dataclasses.replace(CLASS_D, use="sum")))
    assert ("jetplane_active_peers", (("use", "sum"),)) in told
    with pytest.raises(RefusedMetric):
        render(figures(planning=dataclasses.replace(CLASS_D, use="peer 10.64.0.2")))


def test_both_formats_say_the_same() -> None:
    release = render(figures())
    text = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in parse_text(release.text.decode())
        for s in family.samples
    }
    assert text == samples(figures())


def test_types_and_help_are_those_of_the_manifest() -> None:
    kinds = {}
    for family in parse_openmetrics(render(figures()).openmetrics.decode()):  # type: ignore[no-untyped-call]
        kinds[family.name] = (family.type, family.documentation)
    assert kinds == {metric.family: (metric.kind, metric.help) for metric in manifest().values()}


def test_values_arrive() -> None:
    found = samples(figures())
    assert found["jetplane_peers_configured", ()] == 10_000
    assert found["jetplane_build_info", (("version", "0.1.0"),)] == 1
    assert found["jetplane_in_sync", ()] == 0
    assert found["jetplane_wireguard_backend", (("backend", "kernel"),)] == 1
    assert found["jetplane_wireguard_backend", (("backend", "userspace"),)] == 0
    assert found["jetplane_reconcile_errors_total", (("kind", "kernel"),)] == 2
    assert found["jetplane_reconcile_errors_total", (("kind", "peer"),)] == 0
    assert found["jetplane_utilisation_ratio", (("direction", "up"),)] == 0.54
    assert found["jetplane_utilisation_below_floor", (("direction", "up"),)] == 0


def test_below_the_floor_the_ratio_is_zero_and_says_so() -> None:
    found = samples(figures(utilisation={"up": dataclasses.replace(CLASS_T, at_least=0)}))
    assert found["jetplane_utilisation_ratio", (("direction", "up"),)] == 0
    assert found["jetplane_utilisation_below_floor", (("direction", "up"),)] == 1


def test_a_direction_that_cannot_be_told_has_no_class_t_series() -> None:
    found = samples(figures(utilisation={"up": None}))
    class_t = {name for name, metric in manifest().items() if metric.privacy_class == "T"}
    assert not class_t & {name for name, _ in found}
    assert found["jetplane_utilisation_published", (("direction", "up"),)] == 0


def test_the_same_figures_give_the_same_bytes_whatever_order_they_came_in() -> None:
    backwards = dict(reversed(list(figures().map_capacities.items())))
    assert render(figures()) == render(figures(map_capacities=backwards))


def test_nothing_of_this_process_or_of_any_time_is_rendered() -> None:
    release = render(figures())
    for word in (b"_created", b"process_", b"python_", b"timestamp"):
        assert word not in release.text + release.openmetrics


def test_ten_thousand_peers_give_as_many_series_as_one() -> None:
    assert samples(figures(peers_configured=1)).keys() == samples(figures(peers_configured=10_000)).keys()


CANARY = "q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k="

REFUSED: tuple[tuple[str, dict[str, object]], ...] = (
    ("a program that is not listed", {"programs_attached": dict.fromkeys((*listed.PROGRAMS, CANARY), True)}),
    ("a program left out", {"programs_attached": {"guard": True}}),
    ("a map that is not declared", {"map_capacities": {CANARY: (1, 1)}}),
    ("an invariant left out", {"invariants_ok": {}}),
    ("a backend that is not listed", {"wireguard_backend": CANARY}),
    ("a version that is no version", {"version": CANARY}),
)


@pytest.mark.parametrize(("what", "change"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_the_manifest_does_not_allow_is_refused_without_repeating_it(what: str, change: dict[str, object]) -> None:
    with pytest.raises(RefusedMetric) as refusal:
        render(figures(**change))
    assert CANARY not in str(refusal.value)


def test_a_direction_that_is_not_listed_is_never_rendered() -> None:
    assert CANARY.encode() not in render(figures(utilisation={CANARY: CLASS_T})).text


def test_an_error_of_a_kind_that_is_not_listed_counts_as_other() -> None:
    found = samples(figures(reconcile_errors={CANARY: 2, "other": 1}))
    assert found["jetplane_reconcile_errors_total", (("kind", "other"),)] == 3
    assert CANARY not in str(found)


def test_a_metric_that_is_not_listed_is_refused() -> None:
    with pytest.raises(RefusedMetric, match="jetplane_peer_bytes is not in the manifest"):
        encode(collect(figures()) | {"jetplane_peer_bytes": {"": 1}})


def test_a_series_of_class_t_that_is_not_listed_is_refused() -> None:
    with pytest.raises(RefusedMetric, match="does not allow"):
        encode(collect(figures()) | {"jetplane_utilisation_ratio": {CANARY: 1}})


def test_a_metric_that_is_missing_is_refused() -> None:
    whole = collect(figures())
    del whole["jetplane_ready"]
    with pytest.raises(RefusedMetric, match="jetplane_ready is missing"):
        encode(whole)


def test_no_line_of_the_manifest_has_room_for_a_peer() -> None:
    for metric in manifest().values():
        label = metric.label
        if label is None:
            continue
        assert isinstance(label.values, tuple) or metric.kind == "info"
        for canary in (CANARY, "10.64.0.2", "fd64::2", "192.0.2.1:51820"):
            assert not label.allows(canary)


def test_every_error_of_jetplane_has_a_kind_of_its_own() -> None:
    classes = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, errors.JetplaneError)]
    classes.remove(errors.JetplaneError)
    kinds = {error_kind(c("x")) for c in classes}
    assert kinds == set(listed.ERROR_KINDS) - {"other"}
    assert len(kinds) == len(classes)


def test_an_error_that_is_not_jetplanes_is_of_kind_other() -> None:
    assert error_kind(OSError()) == error_kind(errors.JetplaneError("x")) == "other"


def test_the_table_has_one_row_for_each_metric() -> None:
    rows = listed.table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(manifest())
