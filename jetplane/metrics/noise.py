"""How much noise each figure of class D carries, and what all of them together tell about one peer. Pure.

The promise is (epsilon 1, delta 1e-9) for each peer and UTC day. Noise is discrete Gaussian, and accounted in zCDP (Bun
and Steinke, "Concentrated Differential Privacy", 2016): a figure to which one peer adds at most `clip`, with noise of
standard deviation sigma, costs rho = clip² / (2 sigma²) each time it is released, and the costs of all releases add up
(Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy", 2020, theorem 14). How a day's rho turns
into epsilon and delta is corollary 13 there, with the best alpha; the usual bound allows a fifth less of rho.

A standard deviation is a whole multiple of the clip, so that every rho is an exact fraction. Most of a day's goes into
24 figures of active peers: the daily rhythm is what planning needs, and their error is 36 peers. Volumes are told by
the day, since four figures of a quarter's volume at the same cost would have twice the error each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

EpochName = Literal["active", "volume"]
"""There are two kinds of epoch. Each figure belongs to one."""

DAY_S: Final = 86_400
HANDSHAKE_SLOT_S: Final = 120
"""WireGuard makes a new key after so many seconds of traffic (REKEY_AFTER_TIME), so no peer needs more."""

EPSILON: Final = 1.0
DELTA: Final = 1e-9
"""What is promised of a peer's UTC day."""

EPOCHS: Final[Mapping[EpochName, int]] = {"active": 3_600, "volume": DAY_S}
"""The lengths, in seconds, that the promise is made for."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A figure of class D. `noise` is its standard deviation in clips."""

    name: str
    epoch: EpochName
    noise: int

    @property
    def rho(self) -> Fraction:
        """What one release of it costs, in zCDP."""
        return Fraction(1, 2 * self.noise**2)

    def sigma(self, clip: int) -> int:
        """Standard deviation of its noise, in its own unit, when one peer adds at most `clip` in an epoch."""
        return self.noise * clip


QUANTITIES: Final[Mapping[str, Quantity]] = {
    quantity.name: quantity
    for quantity in (
        Quantity("active_peers", "active", 36),
        Quantity("up_bytes", "volume", 16),
        Quantity("down_bytes", "volume", 16),
        Quantity("up_clipped_peers", "volume", 36),
        Quantity("down_clipped_peers", "volume", 36),
        Quantity("handshakes", "volume", 26),
    )
}
"""Every figure there is, by name."""


def clips(*, volume_epoch_s: int, up_bytes: int, down_bytes: int) -> dict[str, int]:
    """The most that one peer adds to each figure in one of its epochs."""
    return {
        "active_peers": 1,
        "up_bytes": up_bytes,
        "down_bytes": down_bytes,
        "up_clipped_peers": 1,
        "down_clipped_peers": 1,
        "handshakes": handshake_slots(volume_epoch_s),
    }


def handshake_slots(epoch_s: int) -> int:
    """How often in an epoch the handshakes are looked at; a peer counts once each time. At least once, in a lab too."""
    return max(1, epoch_s // HANDSHAKE_SLOT_S)


def release_rho(epoch: EpochName) -> Fraction:
    """What releasing all figures of one epoch costs."""
    return sum((q.rho for q in QUANTITIES.values() if q.epoch == epoch), Fraction(0))


def daily_rho(lengths: Mapping[EpochName, int] = EPOCHS) -> Fraction:
    """What a UTC day costs when every epoch of it is released; lengths in seconds, each a part of the day."""
    return sum((Fraction(DAY_S, lengths[name]) * release_rho(name) for name in lengths), Fraction(0))


def delta(rho: float, epsilon: float) -> float:
    """The least delta for which rho-zCDP gives (epsilon, delta): corollary 13 of Canonne, Kamath and Steinke."""
    if rho <= 0:
        return 0.0

    def log_bound(alpha: float) -> float:
        return (alpha - 1) * (alpha * rho - epsilon) + alpha * math.log1p(-1 / alpha) - math.log(alpha - 1)

    # The bound falls and then rises; at best alpha is near (epsilon + rho) / (2 rho), and never far beyond.
    low, high = 1 + 1e-9, 2 + (epsilon + rho) / rho
    for _ in range(200):
        third = (high - low) / 3
        if log_bound(low + third) < log_bound(high - third):
            high -= third
        else:
            low += third
    return min(1.0, math.exp(log_bound((low + high) / 2)))


def epsilon(rho: float, at_delta: float = DELTA) -> float:
    """The least epsilon for which rho-zCDP gives (epsilon, at_delta), rounded up a little rather than down."""
    low, high = 0.0, 1.0
    while delta(rho, high) > at_delta:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if delta(rho, middle) > at_delta:
            low = middle
        else:
            high = middle
    return high
