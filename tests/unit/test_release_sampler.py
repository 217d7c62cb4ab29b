"""OpenDP's noise against the distribution that the arithmetic stands on, and its silence."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest

from jetplane.metrics.ledger import NotReleased
from jetplane.release.sampler import noisy

SIGMA, DRAWS = 12, 6_000
CRITICAL_Z = 7.0
"""In standard deviations of the statistic: a right sampler is refused once in about 10^11 runs."""


def chi_square_z(draws: Sequence[int], sigma: float) -> float:
    """How far the draws are from the discrete Gaussian, in standard deviations: Pearson's chi-square over bins that
    are expected to hold 30 draws at least, by Wilson and Hilferty's cube root (1931)."""
    reach = range(-12 * int(sigma), 12 * int(sigma) + 1)
    weights = {n: math.exp(-n * n / (2 * sigma * sigma)) for n in reach}
    total = sum(weights.values())
    bins: list[list[float]] = []
    observed = dict.fromkeys(reach, 0)
    for draw in draws:
        observed[max(reach.start, min(reach.stop - 1, draw))] += 1
    for n in reach:
        if not bins or bins[-1][0] >= 30:
            bins.append([0.0, 0.0])
        bins[-1][0] += len(draws) * weights[n] / total
        bins[-1][1] += observed[n]
    if bins[-1][0] < 30:
        last = bins.pop()
        bins[-1] = [bins[-1][0] + last[0], bins[-1][1] + last[1]]
    freedom = len(bins) - 1
    chi2 = sum((seen - expected) ** 2 / expected for expected, seen in bins)
    return ((chi2 / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


def test_the_noise_is_the_discrete_gaussian() -> None:
    assert chi_square_z([noisy(1_000, sigma=SIGMA, clip=1) - 1_000 for _ in range(DRAWS)], SIGMA) < CRITICAL_Z


CONTROLS: dict[str, Callable[[random.Random], int]] = {
    "a third less noise": lambda chance: round(chance.gauss(0, SIGMA * 2 / 3)),
    "a tenth more noise": lambda chance: round(chance.gauss(0, SIGMA * 1.15)),
    "Laplace": lambda chance: round(chance.choice((-1, 1)) * chance.expovariate(math.sqrt(2) / SIGMA)),
    "even numbers only": lambda chance: 2 * round(chance.gauss(0, SIGMA / 2)),
    "half a peer off": lambda chance: math.floor(chance.gauss(3, SIGMA)),
}


@pytest.mark.parametrize("draw", CONTROLS.values(), ids=CONTROLS)
def test_the_test_refuses(draw: Callable[[random.Random], int]) -> None:
    chance = random.Random(1)
    assert chi_square_z([draw(chance) for _ in range(DRAWS)], SIGMA) > CRITICAL_Z


def test_the_test_takes_what_is_right() -> None:
    chance = random.Random(1)
    assert chi_square_z([round(chance.gauss(0, SIGMA)) for _ in range(DRAWS)], SIGMA) < CRITICAL_Z


def test_sums_of_volume_are_drawn_as_integers_of_64_bits() -> None:
    value, clip = 3 * 10**15, 20_000_000_000
    drawn = [noisy(value, sigma=16 * clip, clip=clip) for _ in range(50)]
    assert all(isinstance(n, int) and abs(n - value) < 9 * 16 * clip for n in drawn)
    assert {n % 2 for n in drawn} == {0, 1}


@pytest.mark.parametrize("value", [2**70, 1.5, "1234567"])
def test_a_value_that_is_refused_is_not_repeated(value: object) -> None:
    with pytest.raises(NotReleased) as caught:
        noisy(value, sigma=36, clip=1)  # type: ignore[arg-type]
    assert str(value) not in str(caught.value)
    assert caught.value.__suppress_context__


def test_noise_that_costs_more_than_was_entered_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from jetplane.release import sampler

    monkeypatch.setattr(sampler, "_SLACK", -sampler.Fraction(1, 1_000))
    with pytest.raises(NotReleased, match="costs more"):
        noisy(5, sigma=36, clip=1)
