"""Attacks on the figures themselves, with the noise that a node really draws (numbers as in tests/ATTACKS.md).

A day of a node tells 24 figures of active peers and one of each other quantity. Whoever attacks knows everything but
one peer: the exact figures without it, the standard deviations, and what the peer would do. Then the best there is, for
noise of this kind, is the weighted sum of what is told beyond that: its weights are the peer's part over the variance
(Neyman and Pearson). Noise is drawn by the node's own sampler; days are put together from the pool of these draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from jetplane.metrics import noise
from jetplane.metrics.noise import EPSILON, QUANTITIES
from jetplane.metrics.render import render
from jetplane.release.sampler import noisy
from tests.unit.test_metrics_render import figures

RUNS = 20_000
TRUTH = 1_000
CLIPS = noise.clips(volume_epoch_s=noise.EPOCHS["volume"], up_bytes=4_000_000_000, down_bytes=20_000_000_000)
HOURS = 24

Noise = NDArray[np.float64]
"""Runs × figures of a day, in clips: the 24 of active peers, then each other quantity."""


@pytest.fixture(scope="module")
def drawn() -> Mapping[str, NDArray[np.float64]]:
    """Quantity → noise in clips. Of active peers 20,000 draws, of the others fewer: they are told once a day."""
    pool = {}
    for name, quantity in QUANTITIES.items():
        clip = CLIPS[name]
        count = RUNS if name == "active_peers" else 2_000
        values = [noisy(TRUTH * clip, sigma=quantity.sigma(clip), clip=clip) for _ in range(count)]
        assert set(map(type, values)) == {int}
        pool[name] = np.array([value / clip - TRUTH for value in values])
    return pool


@pytest.fixture(scope="module")
def days(drawn: Mapping[str, NDArray[np.float64]]) -> tuple[Noise, Noise]:
    """The noise of 20,000 days with the peer and of as many without."""
    chance = np.random.default_rng(1)

    def made() -> Noise:
        columns = [chance.choice(drawn["active_peers"], (RUNS, HOURS))]
        columns += [chance.choice(drawn[name], (RUNS, 1)) for name in QUANTITIES if name != "active_peers"]
        return np.concatenate(columns, axis=1)

    return made(), made()


SIGMAS = np.array([36.0] * HOURS + [QUANTITIES[name].noise for name in QUANTITIES if name != "active_peers"])
ALL_DAY = np.ones(len(SIGMAS))
"""A peer that is there every hour, at its clip in everything: the most that anybody can add."""


def scores(told: Noise, part: NDArray[np.float64], sigmas: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best statistic for a peer whose part in each figure is known."""
    found: NDArray[np.float64] = (told * (part / sigmas**2)).sum(axis=1)
    return found


def right_guesses(without: NDArray[np.float64], present: NDArray[np.float64]) -> float:
    """How often the best threshold is right when a coin decides whether the peer is there."""
    edges = np.sort(np.concatenate([without, present]))[:: len(without) // 500]
    share = [(np.mean(without < edge) + np.mean(present >= edge)) / 2 for edge in edges]
    return float(max(share))


def auc(without: NDArray[np.float64], present: NDArray[np.float64]) -> float:
    """How often a day with the peer scores above a day without; equal counts half."""
    order = np.sort(without)
    below, upto = np.searchsorted(order, present, "left"), np.searchsorted(order, present, "right")
    return float(np.mean((below + upto) / 2) / len(without))


def test_attack_02_whether_one_peer_joined_is_hardly_better_guessed_than_by_a_coin(days: tuple[Noise, Noise]) -> None:
    """A whole day of everything: at most e^ε/(1+e^ε) = 0.731 by the promise, 0.534 by the noise that there is.

    The controls: exact figures, and noise of one peer instead of 36.
    """
    without, present = days
    promised = math.exp(EPSILON) / (1 + math.exp(EPSILON))
    guessed = right_guesses(scores(without, ALL_DAY, SIGMAS), scores(present + ALL_DAY, ALL_DAY, SIGMAS))
    assert 0.5 <= guessed < 0.56 < promised
    exact = right_guesses(np.zeros(RUNS), scores(np.tile(ALL_DAY, (RUNS, 1)), ALL_DAY, SIGMAS))
    assert exact == 1
    little = 1 / SIGMAS
    weak = right_guesses(
        scores(without * little, ALL_DAY, SIGMAS * little), scores(present * little + ALL_DAY, ALL_DAY, SIGMAS * little)
    )
    assert weak > 0.95 > promised


def test_attack_05_a_pattern_of_presence_is_not_found_again(days: tuple[Noise, Noise]) -> None:
    """A heavy peer is there every second hour, and the attacker knows which. The control: exact figures."""
    without, present = days
    hours = np.array([1.0, 0.0] * (HOURS // 2) + [0.0] * (len(SIGMAS) - HOURS))
    assert auc(scores(without, hours, SIGMAS), scores(present + hours, hours, SIGMAS)) <= 0.55
    others = np.random.default_rng(2).integers(0, 2, (2, RUNS, len(SIGMAS))) * 0.1
    assert auc(scores(others[0], hours, SIGMAS), scores(others[1] + hours, hours, SIGMAS)) > 0.99


def test_attack_08_the_low_bits_of_a_figure_tell_nothing(drawn: Mapping[str, NDArray[np.float64]]) -> None:
    """Figures are integers, and even and odd ones are as frequent, whatever the truth. The control: floating point.

    Noise that is a floating-point number of its own makes sums only some truths can have (Mironov, "On Significance of
    the Least Significant Bits For Differential Privacy", 2012).
    """
    even = np.mean((drawn["active_peers"] + TRUTH) % 2 == 0)
    assert abs(even - 0.5) < 6 * 0.5 / math.sqrt(RUNS)
    chance = np.random.default_rng(3)
    noises = chance.laplace(0, 36, RUNS)
    seen = [{float(n - truth + truth).hex()[-6:] for n in noises} for truth in (0.0, 1e6)]
    assert len(seen[0] - seen[1]) > 100, "the control: the low bits of such a sum tell the truths apart"


PEERS = (1, 10_000)


def canary(number: int) -> str:
    return f"canary-of-peer-{number:05d}"


def naive(peers: int) -> bytes:
    """What an exporter with a series for each peer tells."""
    registry = CollectorRegistry()
    gauge = Gauge("wireguard_received_bytes", "Of each peer.", ["public_key"], registry=registry)
    for number in range(peers):
        gauge.labels(canary(number)).set(number)
    return generate_latest(registry)


def series(text: bytes) -> set[bytes]:
    return {line.rpartition(b" ")[0] for line in text.splitlines() if not line.startswith(b"#")}


def told(peers: int) -> Iterator[bytes]:
    release = render(figures(peers_configured=peers))
    yield from (release.text, release.openmetrics)


def test_attack_07_ten_thousand_peers_have_as_many_series_as_one() -> None:
    """The same names and labels; only how many are configured differs. The control: an exporter of peers."""
    for one, many in zip(told(1), told(10_000), strict=True):
        assert series(one) == series(many)
        assert b"canary" not in many
        assert abs(len(many) - len(one)) < 10
    assert len(series(naive(10_000))) == 10_000 == len(series(naive(1))) + 9_999
    assert canary(9_999).encode() in naive(10_000)
