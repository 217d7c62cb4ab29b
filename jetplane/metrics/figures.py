"""Plain numbers the controller fills in. Nothing of one peer has a place here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jetplane.errors import JetplaneError
from jetplane.metrics.manifest import ERROR_KINDS


@dataclass(frozen=True, slots=True)
class Utilisation:
    """What may be told about the throughput of one direction. All in bytes per second.

    `at_least` is the lower edge of the step, 0 below the floor.
    """

    capacity: int
    floor: int
    step: int
    at_least: int = 0


@dataclass(frozen=True, slots=True)
class Planning:
    """What is told for planning (class D), and on what terms; by quantity, or by kind of epoch. All of it is public."""

    use: str  # "node" or "sum": whether one node's figures mean anything
    design_peers: int
    epsilon: float  # of a peer's UTC day
    rho: float
    clips: Mapping[str, int]
    sigmas: Mapping[str, int]  # of those that this node has
    lengths: Mapping[str, int]  # of epochs, seconds
    skipped: Mapping[str, int]  # epochs since the start of the controller
    ledger_ok: bool
    figures: Mapping[str, int] = field(default_factory=dict)  # those that have been released
    released_until: Mapping[str, int] = field(default_factory=dict)  # Unix seconds; left out before the first release


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that is released, of one moment. The keys of each mapping are the manifest's, all of them."""

    version: str
    configuration_generation: int
    ready: bool
    in_sync: bool
    wireguard_backend: str
    peers_configured: int
    programs_attached: Mapping[str, bool]
    map_capacities: Mapping[str, tuple[int, int]]  # entries, bytes
    invariants_ok: Mapping[str, bool]
    source_ok: bool = True
    records_refused: Mapping[str, int] = field(default_factory=dict)  # kinds of which there are none may be left out
    reconcile_errors: Mapping[str, int] = field(default_factory=dict)  # kinds that never occurred may be left out
    utilisation: Mapping[str, Utilisation | None] = field(default_factory=dict)  # None or left out: not published
    planning: Planning | None = None  # None: this node publishes none of class D


def error_kind(error: BaseException) -> str:
    """The `kind` a failure is counted under: the name of the error class, without what it says."""
    for kind in type(error).__mro__:
        name = kind.__name__.removesuffix("Error").lower()
        if issubclass(kind, JetplaneError) and name in ERROR_KINDS:
            return name
    return "other"
