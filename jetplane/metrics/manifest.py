"""The one list of what may leave the node as a metric. `render` refuses everything else.

Class A does not depend on traffic. Class T says so little that at least 50 peers must stand behind it. Class D is made
once an epoch, with noise that hides whether any one peer was there; beside its figures stands what has to be known to
use them, which follows from the configuration. Which series there are depends on the configuration and, before the
first release, on the clock: never on what peers do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from jetplane import abi
from jetplane.metrics import noise

PROGRAMS = ("guard", "nat_out", "nat_in", "leak_guard", "dns_answer")
INVARIANTS = ("fail_closed_rules", "leak_guard", "pins_private")
REFUSAL_KINDS = ("file", "record", "plan", "address", "own_key", "duplicate", "full")
ERROR_KINDS = ("configuration", "peer", "requirement", "kernel", "compile", "backend", "other")
BACKENDS = ("kernel", "userspace", "veth")
DIRECTIONS = ("up", "down")
USES = ("node", "sum")
EPOCHS = tuple(noise.EPOCHS)
QUANTITIES = {
    "active_peers": (
        "jetplane_active_peers",
        "Peers from which at least one packet was forwarded, in the last released epoch.",
    ),
    "up_bytes": (
        "jetplane_forwarded_up_bytes",
        "Bytes forwarded from subscribers in the last released epoch, of each peer up to the clip.",
    ),
    "down_bytes": (
        "jetplane_forwarded_down_bytes",
        "Bytes forwarded to subscribers in the last released epoch, of each peer up to the clip.",
    ),
    "up_clipped_peers": (
        "jetplane_clipped_up_peers",
        "Peers of whose bytes from them no more than the clip is counted.",
    ),
    "down_clipped_peers": (
        "jetplane_clipped_down_peers",
        "Peers of whose bytes to them no more than the clip is counted.",
    ),
    "handshakes": (
        "jetplane_handshakes",
        "Slots of 120 s of the last released epoch in which a peer made a handshake, over all peers.",
    ),
}
"""Quantity of class D → its metric, and what that says before the words that all of them share."""
_VERSION = re.compile(r"\d{1,4}\.\d{1,4}\.\d{1,4}((a|b|rc|\.post|\.dev)\d{1,4})?")


@dataclass(frozen=True, slots=True)
class Label:
    """The only label a metric has. `values` is the closed list; a pattern is for what is known at build time only."""

    key: str
    values: tuple[str, ...] | re.Pattern[str]

    def allows(self, value: str) -> bool:
        """Whether a series may carry this value."""
        if isinstance(self.values, tuple):
            return value in self.values
        return self.values.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the list. `name` is the name of the samples, suffix included."""

    name: str
    privacy_class: Literal["A", "T", "D"]
    kind: Literal["gauge", "counter", "info"]
    help: str
    label: Label | None = None

    @property
    def family(self) -> str:
        """The name without the suffix that OpenMetrics adds for the kind."""
        return self.name.removesuffix({"gauge": "", "counter": "_total", "info": "_info"}[self.kind])


@cache
def manifest() -> dict[str, Metric]:
    """Name → metric, in the order of the exposition."""
    return {metric.name: metric for metric in _metrics()}


def table() -> str:
    """The list as a Markdown table, for the README."""
    lines = ["| metric | class | label | what it says |", "| --- | --- | --- | --- |"]
    for metric in manifest().values():
        label = f"`{metric.label.key}`" if metric.label else ""
        lines.append(f"| `{metric.name}` | {metric.privacy_class} | {label} | {metric.help} |")
    return "\n".join(lines) + "\n"


def _metrics() -> Iterator[Metric]:
    direction = Label("direction", DIRECTIONS)
    maps = Label("map", tuple(abi.maps()))
    yield Metric("jetplane_build_info", "A", "info", "Version of jetplane.", Label("version", _VERSION))
    yield Metric(
        "jetplane_configuration_generation",
        "A",
        "gauge",
        "Counts the configurations applied since the controller started.",
    )
    yield Metric("jetplane_ready", "A", "gauge", "1 when the node can carry traffic: programs attached, tunnels up.")
    yield Metric("jetplane_in_sync", "A", "gauge", "1 when the node holds exactly the wanted peers.")
    yield Metric(
        "jetplane_wireguard_backend",
        "A",
        "gauge",
        "1 for what carries the tunnels; veth has no cryptography and is not a VPN.",
        Label("backend", BACKENDS),
    )
    yield Metric("jetplane_peers_configured", "A", "gauge", "Peers wanted, active or not.")
    yield Metric(
        "jetplane_peer_records_refused",
        "A",
        "gauge",
        "Records, or whole files, that stand refused and are not applied.",
        Label("kind", REFUSAL_KINDS),
    )
    yield Metric(
        "jetplane_peer_source_ok",
        "A",
        "gauge",
        "1 when the source of peers is followed; 0: it cannot be read, and the peers stay as they were.",
    )
    yield Metric(
        "jetplane_program_attached",
        "A",
        "gauge",
        "1 when the program is attached wherever it has to be.",
        Label("program", PROGRAMS),
    )
    yield Metric("jetplane_map_capacity_entries", "A", "gauge", "Entries the BPF map has room for.", maps)
    yield Metric("jetplane_map_memory_bytes", "A", "gauge", "Memory the BPF map was given when it was made.", maps)
    yield Metric(
        "jetplane_invariant_ok",
        "A",
        "gauge",
        "1 when the promise was found kept at the last look.",
        Label("invariant", INVARIANTS),
    )
    yield Metric(
        "jetplane_reconcile_errors_total",
        "A",
        "counter",
        "Failed attempts to bring the node to the wanted state, by what refused.",
        Label("kind", ERROR_KINDS),
    )
    yield Metric(
        "jetplane_utilisation_published",
        "A",
        "gauge",
        "1 when utilisation may be told. 0: the capacity is unknown, a plan has no rate limit, or 65 peers at full rate"
        " exceed the capacity; then no figure would prove that enough peers stand behind it.",
        direction,
    )
    yield Metric("jetplane_capacity_bytes_per_second", "T", "gauge", "Configured capacity.", direction)
    yield Metric(
        "jetplane_utilisation_ratio",
        "T",
        "gauge",
        "Throughput of the last minute is at least this part of the capacity, in coarse steps; 0 below the floor.",
        direction,
    )
    yield Metric(
        "jetplane_utilisation_floor_ratio",
        "T",
        "gauge",
        "Lowest utilisation that is told: 50 peers at full rate.",
        direction,
    )
    yield Metric(
        "jetplane_utilisation_step_ratio",
        "T",
        "gauge",
        "Distance between the steps; the last begins three quarters of it below 1.",
        direction,
    )
    yield Metric(
        "jetplane_utilisation_below_floor", "T", "gauge", "1 when utilisation is too low to be told.", direction
    )
    yield from _planning()


def _planning() -> Iterator[Metric]:
    quantity, epoch = Label("quantity", tuple(QUANTITIES)), Label("epoch", EPOCHS)
    use = Label("use", USES)
    for name, says in QUANTITIES.values():
        yield Metric(
            name, "D", "gauge", f'{says} With noise: may be below zero; "sum" is for sums over nodes only.', use
        )
    yield Metric(
        "jetplane_noise_standard_deviation", "D", "gauge", "Of the discrete Gaussian noise in each figure.", quantity
    )
    yield Metric("jetplane_clip", "D", "gauge", "The most that one peer adds to each figure in an epoch.", quantity)
    yield Metric("jetplane_epoch_seconds", "D", "gauge", "Length of each kind of epoch, by UTC.", epoch)
    yield Metric(
        "jetplane_released_until_seconds",
        "D",
        "gauge",
        "Unix time at which the epoch ended that was released last.",
        epoch,
    )
    yield Metric(
        "jetplane_epochs_skipped_total",
        "D",
        "counter",
        "Epochs that were not released: not whole by the clock, or their release was interrupted.",
        epoch,
    )
    yield Metric("jetplane_ledger_ok", "D", "gauge", "1 when the ledger of releases can be kept.")
    yield Metric("jetplane_design_peers", "D", "gauge", "Active peers this node is planned for; not how many it has.")
    yield Metric(
        "jetplane_privacy_epsilon", "D", "gauge", "What all figures together tell of one peer's UTC day, at delta 1e-9."
    )
    yield Metric("jetplane_privacy_rho", "D", "gauge", "The same in zero-concentrated differential privacy.")
