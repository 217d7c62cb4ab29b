"""The noise of class D keeps the promise, by arithmetic that knows nothing of the sampler."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetplane.metrics import noise
from jetplane.metrics.noise import DELTA, EPSILON, QUANTITIES


def phi(x: float) -> float:
    """The normal distribution, exact far out on the left, too; NormalDist goes by erf, which ends at 1e-16 there."""
    return math.erfc(-x / math.sqrt(2)) / 2


def gaussian_delta(rho: float, epsilon: float) -> float:
    """What the (continuous) Gaussian mechanism gives exactly (Balle and Wang, "Improving the Gaussian Mechanism", 2018,
    theorem 8). Every true bound for rho-zCDP lies above it."""
    mu = math.sqrt(2 * rho)
    return phi(mu / 2 - epsilon / mu) - math.exp(epsilon) * phi(-mu / 2 - epsilon / mu)


def test_a_day_of_every_figure_keeps_the_promise() -> None:
    rho = noise.daily_rho()
    assert rho == sum(
        (
            Fraction(24, 2 * 36**2),  # active peers
            2 * Fraction(1, 2 * 16**2),  # bytes up and down
            2 * Fraction(1, 2 * 36**2),  # clipped peers
            Fraction(1, 2 * 26**2),  # handshakes
        ),
        Fraction(0),
    )
    assert noise.epsilon(float(rho), DELTA) < EPSILON
    assert noise.delta(float(rho), EPSILON) < DELTA
    # A hundredth more than what the promise allows is not taken for allowed.
    assert noise.delta(0.0152, EPSILON) > DELTA
    assert noise.epsilon(0.0152, DELTA) > EPSILON


def test_the_usual_looser_conversion_would_not_do() -> None:
    rho = float(noise.daily_rho())
    assert rho + 2 * math.sqrt(rho * math.log(1 / DELTA)) > EPSILON


@given(st.floats(1e-4, 2.0), st.floats(0.1, 10.0))
def test_the_bound_lies_above_what_a_gaussian_really_does(rho: float, epsilon: float) -> None:
    assert noise.delta(rho, epsilon) >= gaussian_delta(rho, epsilon) * (1 - 1e-6) - 1e-15


@given(st.floats(1e-5, 1.0), st.sampled_from((1e-5, 1e-7, 1e-9, 1e-12)))
def test_epsilon_and_delta_belong_together(rho: float, at_delta: float) -> None:
    found = noise.epsilon(rho, at_delta)
    assert noise.delta(rho, found) <= at_delta * (1 + 1e-6)
    assert noise.delta(rho, found * 0.999) > at_delta


def test_nothing_released_costs_nothing() -> None:
    assert noise.delta(0.0, 1.0) == 0.0


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=QUANTITIES)
@given(st.integers(1, 10**12))
def test_sigma_and_rho_say_the_same(quantity: noise.Quantity, clip: int) -> None:
    assert Fraction(clip**2, 2 * quantity.sigma(clip) ** 2) == quantity.rho


def test_shorter_epochs_cost_more() -> None:
    lab = noise.daily_rho({"active": 10, "volume": 10})
    assert lab == 8640 * (noise.release_rho("active") + noise.release_rho("volume"))
    assert noise.epsilon(float(lab)) > 100


def test_one_peer_adds_a_handshake_each_120_seconds_at_most() -> None:
    assert noise.clips(volume_epoch_s=86_400, up_bytes=1, down_bytes=1)["handshakes"] == 720
    assert noise.handshake_slots(4) == 1
