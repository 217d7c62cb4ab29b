"""What of class D is told at this moment, by the exposition and by the status."""

from __future__ import annotations

from collections.abc import Mapping

from jetplane.config import Config
from jetplane.errors import JetplaneError
from jetplane.metrics import ledger, noise, released
from jetplane.metrics.figures import Planning
from jetplane.release import terms
from jetplane.status import PrivacyStatus

SMALL = 1_000
"""Below so many active peers one node's figures are mostly noise: they count in sums only."""


def planning(config: Config, skipped: Mapping[str, int]) -> Planning | None:
    """Figures and their terms; None where the configuration has none. Figures that other terms made are not told."""
    if not config.metrics.statistics:
        return None
    clips, sigmas = terms.clips(config), terms.sigmas(config)
    lengths: dict[str, int] = {str(name): length for name, length in terms.lengths(config).items()}
    ours = {
        name: release
        for name, release in _released(config).items()
        if release.clips == clips and release.length == lengths.get(name)
    }
    return Planning(
        use="node" if config.metrics.design_peers >= SMALL else "sum",
        design_peers=config.metrics.design_peers,
        epsilon=terms.epsilon(config),
        rho=float(terms.daily_rho(config)),
        clips=clips,
        sigmas=sigmas,
        lengths=lengths,
        skipped=skipped,
        ledger_ok=_ledger_ok(config),
        figures={name: n for release in ours.values() for name, n in release.figures.items() if name in sigmas},
        released_until={name: release.end for name, release in ours.items()},
    )


def privacy_status(config: Config, told: Planning | None) -> PrivacyStatus | None:
    """The same without the figures."""
    if told is None:
        return None
    return PrivacyStatus(
        rho=told.rho,
        epsilon=round(told.epsilon, 4),
        delta=noise.DELTA,
        promised=terms.keeps_the_promise(config),
        use=told.use,
        released_until=dict(told.released_until),
        skipped=dict(told.skipped),
    )


def _released(config: Config) -> dict[str, released.Release]:
    try:
        return released.load(config.run_directory / released.FILE)
    except JetplaneError:
        return {}  # the next release writes it anew


def _ledger_ok(config: Config) -> bool:
    try:
        ledger.load(config.run_directory / ledger.FILE)
    except ledger.NotReleased:
        return False
    return True
