"""The public terms of a node's class D: what the configuration says, in the words of the arithmetic. Pure."""

from __future__ import annotations

from fractions import Fraction

from jetplane.config import Config
from jetplane.metrics import noise
from jetplane.metrics.noise import QUANTITIES, EpochName

MEGABYTE = 1_000_000


def lengths(config: Config) -> dict[EpochName, int]:
    """Length of each kind of epoch, in seconds."""
    return {"active": config.metrics.active_epoch, "volume": config.metrics.volume_epoch}


def clips(config: Config) -> dict[str, int]:
    """The most that one peer adds to each figure in one of its epochs."""
    return noise.clips(
        volume_epoch_s=config.metrics.volume_epoch,
        up_bytes=config.metrics.up_clip_mb * MEGABYTE,
        down_bytes=config.metrics.down_clip_mb * MEGABYTE,
    )


def sigmas(config: Config) -> dict[str, int]:
    """Standard deviation of each figure's noise."""
    have = clips(config)
    return {name: quantity.sigma(have[name]) for name, quantity in QUANTITIES.items() if name not in left_out(config)}


def left_out(config: Config) -> tuple[str, ...]:
    """Figures that this node cannot have: without WireGuard there are no handshakes."""
    return ("handshakes",) if config.transport == "veth" else ()


def daily_rho(config: Config) -> Fraction:
    """What a UTC day of these epochs costs."""
    return noise.daily_rho(lengths(config))


def limit(config: Config) -> Fraction:
    """What a UTC day may cost: what was promised, or what the configuration openly says instead."""
    return max(noise.daily_rho(), daily_rho(config))


def epsilon(config: Config) -> float:
    """The epsilon that a peer's UTC day has, at noise.DELTA."""
    return noise.epsilon(float(daily_rho(config)))


def keeps_the_promise(config: Config) -> bool:
    """Whether that is what is promised."""
    return epsilon(config) <= noise.EPSILON
