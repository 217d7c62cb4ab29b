"""Class T: whatever the traffic, a figure that is told has at least 50 peers behind it."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetplane.metrics.utilisation import CONTRIBUTORS, WINDOW_S, Ladder, Meter, advance, ladder, published, start

RATE, BURST = 12_500_000, 1_250_000  # 100 Mbit/s and a tenth of a second of it
CAPACITY = 1_250_000_000  # 10 Gbit/s

ladders = st.builds(
    ladder,
    capacity=st.integers(1, 10**11),
    peer_rate=st.integers(1, 10**8),
    peer_burst=st.integers(0, 10**8),
).filter(lambda steps: steps is not None)


def steps_of(peer_rate: int = RATE, peer_burst: int = BURST, capacity: int = CAPACITY) -> Ladder:
    steps = ladder(capacity=capacity, peer_rate=peer_rate, peer_burst=peer_burst)
    assert steps is not None
    return steps


def told(steps: Ladder, meter: Meter) -> int:
    figure = published(steps, meter)
    assert figure is not None
    return figure.at_least


def run(steps: Ladder, minutes: Iterable[int], seed: int = 1) -> list[int]:
    """The figure told after each minute, given the bytes of each minute."""
    draw = random.Random(seed).randrange
    meter, total, said = start(steps, 0, 0.0, draw), 0, []
    for minute, volume in enumerate(minutes, start=1):
        total += volume
        meter = advance(steps, meter, total, float(minute * WINDOW_S), draw)
        said.append(told(steps, meter))
    return said


UNTELLABLE = (
    ("a plan without a rate limit", {"capacity": CAPACITY, "peer_rate": 0}),
    ("an unknown capacity", {"capacity": None, "peer_rate": RATE}),
    ("a capacity that 65 peers at full rate exceed", {"capacity": 65 * RATE - 1, "peer_rate": RATE}),
    ("a burst that takes the floor above the capacity", {"capacity": 65 * 60, "peer_rate": 60, "peer_burst": 60}),
)


@pytest.mark.parametrize(("what", "arguments"), UNTELLABLE, ids=[row[0] for row in UNTELLABLE])
def test_nothing_is_told_with(what: str, arguments: dict[str, int]) -> None:
    assert ladder(**arguments) is None
    assert published(None, None) is None


@given(ladders, st.data())
def test_a_told_figure_has_fifty_peers_behind_it(steps: Ladder, data: st.DataObject) -> None:
    """The peers that a volume takes at the least, counted from rate and burst and not from the ladder."""
    share = steps.floor // CONTRIBUTORS
    volumes = data.draw(st.lists(st.integers(0, 2 * steps.capacity * WINDOW_S), max_size=20))
    for volume, figure in zip(volumes, run(steps, volumes, data.draw(st.integers())), strict=True):
        if figure:
            assert volume >= CONTRIBUTORS * share * WINDOW_S
            assert figure * WINDOW_S <= volume


@given(st.integers(1, 10**8), st.integers(0, 10**8), st.integers(1, 10**4))
def test_forty_nine_peers_at_full_rate_and_burst_are_below_the_floor(rate: int, burst: int, longer_s: int) -> None:
    steps, draw = steps_of(rate, burst, capacity=10**12), random.Random(2).randrange
    for window_s in (WINDOW_S, WINDOW_S + longer_s):
        volume = 49 * (rate * window_s + burst)
        assert told(steps, advance(steps, start(steps, 0, 0.0, draw), volume, float(window_s), draw)) == 0


@given(ladders)
def test_a_step_is_at_least_one_peers_share_and_edges_stay_within_the_capacity(steps: Ladder) -> None:
    share = steps.floor // CONTRIBUTORS
    assert steps.step // 4 >= 5 * share
    assert steps.edge(steps.highest(10 * steps.capacity, 0)) <= steps.capacity


@given(ladders, st.integers())
def test_a_full_node_is_on_the_last_step(steps: Ladder, seed: int) -> None:
    figure = run(steps, [steps.capacity * WINDOW_S], seed)[-1]
    assert figure == steps.edge(steps.top)
    # Three quarters of a step, and what rounding to whole bytes loses: less than one for each step.
    assert steps.capacity - figure <= 3 * (steps.step + 1) / 4 + steps.top


@given(st.integers(0, 2 * CAPACITY), st.integers())
def test_steady_traffic_settles_within_a_step_or_so_of_the_truth(throughput: int, seed: int) -> None:
    steps = steps_of()
    figure = run(steps, [throughput * WINDOW_S] * 20, seed)[-1]
    if figure:
        assert min(throughput, CAPACITY) - 2 * steps.step <= figure <= throughput
    else:
        assert throughput < steps.floor + steps.step


@given(st.lists(st.tuples(st.integers(0, 59), st.integers(0, 10**12)), max_size=30))
def test_asking_more_than_once_a_minute_tells_nothing_more(asked: list[tuple[int, int]]) -> None:
    steps, draw = steps_of(), random.Random(3).randrange
    meter = start(steps, 0, 0.0, draw)
    for second, total in asked:
        assert advance(steps, meter, total, float(second), draw) is meter


@given(st.integers(0, CAPACITY), st.integers())
def test_one_peer_that_goes_on_and_off_moves_the_figure_at_most_once(base: int, seed: int) -> None:
    """Over a steady rest. Its full share is no more than the gap between the two thresholds."""
    steps = steps_of()
    settled = [base * WINDOW_S] * 20
    pattern = [(base + on * (steps.floor // CONTRIBUTORS)) * WINDOW_S for on in (1, 0) * 20]
    figures = run(steps, settled + pattern, seed)[len(settled) - 1 :]
    assert sum(a != b for a, b in itertools.pairwise(figures)) <= 1


@pytest.mark.parametrize(("wander", "noise"), [(0.2, 0.0), (0.3, 1.0)], ids=("a smooth rest", "a noisy rest"))
def test_the_pattern_of_a_heavy_peer_cannot_be_told_from_its_absence(wander: float, noise: float) -> None:
    """A matched filter over an hour, against a rest that wanders; on exact figures the same filter wins."""
    steps, dice = steps_of(), random.Random(4)
    share = steps.floor // CONTRIBUTORS
    pattern = [(-1, 1)[minute // 3 % 2] for minute in range(60)]

    def score(series: list[int]) -> float:
        mean = statistics.fmean(series)
        return sum((value - mean) * sign for value, sign in zip(series, pattern, strict=True))

    def hour(present: bool) -> tuple[float, float]:
        rest, exact = dice.uniform(0.55, 0.95) * CAPACITY, []
        settling = [int(rest)] * 10
        for sign in pattern:
            rest += dice.gauss(0, wander * share)
            exact.append(int(rest + dice.gauss(0, noise * share) + share * present * (sign > 0)))
        figures = run(steps, [value * WINDOW_S for value in settling + exact], dice.getrandbits(32))
        return score(figures[len(settling) :]), score(exact)

    without, with_peer = ([hour(present) for _ in range(600)] for present in (False, True))

    def auc(kind: int) -> float:
        pairs = itertools.product((a[kind] for a in without), (b[kind] for b in with_peer))
        return statistics.fmean((b > a) + 0.5 * (a == b) for a, b in pairs)

    assert auc(1) > 0.95, "the control: on exact figures the attack must succeed"
    assert auc(0) <= 0.55


def test_counters_made_anew_leave_the_figure_and_begin_a_window() -> None:
    steps, draw = steps_of(), random.Random(5).randrange
    busy = advance(steps, start(steps, 0, 0.0, draw), CAPACITY * 60, 60.0, draw)
    again = advance(steps, busy, 0, 120.0, draw)
    assert told(steps, again) == told(steps, busy) > 0
    assert told(steps, advance(steps, again, 0, 180.0, draw)) == 0


def test_thresholds_stay_until_the_figure_moves() -> None:
    """Drawn anew each minute, they could be averaged away."""
    steps, draw = steps_of(), random.Random(6).randrange
    meter = start(steps, 0, 0.0, draw)
    later = advance(steps, meter, 0, 60.0, draw)
    assert (later.rise_margin, later.fall_margin) == (meter.rise_margin, meter.fall_margin)
    moved = advance(steps, later, CAPACITY * 60, 120.0, draw)
    assert (moved.rise_margin, moved.fall_margin) != (meter.rise_margin, meter.fall_margin)


def test_a_meter_does_not_print_its_exact_counter() -> None:
    assert "123456789" not in repr(start(steps_of(), 123456789, 0.0, random.Random(7).randrange))
