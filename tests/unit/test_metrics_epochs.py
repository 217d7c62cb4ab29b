"""Epochs under clocks that step, machines that sleep and controllers that start anew."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetplane.metrics import epochs
from jetplane.metrics.epochs import Clocks, Opening, open_at, why_not_whole

HOUR = 3_600
START = 500_000 * HOUR


def opened(late: float = 0.0) -> Opening:
    return open_at(Clocks(START + late, 1_000.0), HOUR, 7)


def closed(opening: Opening, *, passed: float, stepped: float = 0.0) -> str:
    """What is said of an epoch that is closed when so many seconds have passed and the clock was set by so many."""
    return why_not_whole(opening, Clocks(opening.at.wall + passed + stepped, opening.at.boot + passed))


CLOSES = (
    ("at its end", 0.0, HOUR, 0.0, ""),
    ("a moment later", 0.5, HOUR, 0.0, ""),
    ("with a clock that drifts", 0.0, HOUR - 1, 1.5, ""),
    ("opened late", 6.0, HOUR - 6, 0.0, "it was not opened at its beginning"),
    ("closed late", 0.0, HOUR + 6, 0.0, "it was not closed at its end"),
    ("closed early", 0.0, HOUR - 2, 0.0, "it was not closed at its end"),
    ("with the clock set forward", 0.0, HOUR - 600, 600, "the clock was set meanwhile"),
    ("with the clock set back", 0.0, HOUR + 600, -600, "the clock was set meanwhile"),
    ("an epoch late", 0.0, 2 * HOUR, 0.0, "it was not closed at its end"),
)


@pytest.mark.parametrize(("late", "passed", "stepped", "reason"), [c[1:] for c in CLOSES], ids=[c[0] for c in CLOSES])
def test_an_epoch_closed(late: float, passed: float, stepped: float, reason: str) -> None:
    assert closed(opened(late), passed=passed, stepped=stepped) == reason


def test_it_is_over_in_any_other_epoch_also_an_earlier_one() -> None:
    opening = opened()
    assert not epochs.is_over(opening, Clocks(START + HOUR - 0.001, 0))
    assert epochs.is_over(opening, Clocks(START + HOUR, 0))
    assert epochs.is_over(opening, Clocks(START - 0.001, 0))
    assert epochs.wait(opening, Clocks(START + 10, 0)) == HOUR - 10
    assert epochs.wait(opening, Clocks(START + HOUR, 0)) == 0


def test_the_clocks_are_the_machine_s() -> None:
    one, other = Clocks.now(), Clocks.now()
    assert other.boot >= one.boot > 0
    assert one.wall > 1_600_000_000


@dataclass
class Machine:
    """True time, and a clock that people set."""

    now: float
    offset: float = 0.0

    def clocks(self) -> Clocks:
        return Clocks(self.now + self.offset, self.now - START + 10_000)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0.1, 3 * HOUR)),
        st.tuples(st.just("sleep"), st.floats(1.0, 3 * HOUR)),  # suspended: nobody looks until it is over
        st.tuples(st.just("set"), st.floats(-2 * HOUR, 2 * HOUR)),
        st.tuples(st.just("restart"), st.floats(0.0, HOUR)),
    ),
    max_size=20,
)


@given(EVENTS, st.floats(-HOUR, HOUR))
def test_a_whole_epoch_is_really_its_hour_and_numbers_only_rise(events: list[tuple[str, float]], offset: float) -> None:
    """Whoever follows the rules: look at each end and at least every ten seconds, turn when it is over."""
    machine = Machine(float(START), offset)
    opening = open_at(machine.clocks(), HOUR, 0)
    began, whole = machine.now, []

    def look() -> None:
        nonlocal opening, began
        now = machine.clocks()
        if epochs.is_over(opening, now):
            if not why_not_whole(opening, now):
                whole.append((opening, began, machine.now))
            assert opening.number < epochs.NUMBERS
            opening, began = open_at(now, HOUR, opening.number + 1), machine.now

    for kind, amount in events:
        if kind == "set":
            machine.offset += amount
        elif kind == "wait":
            until = machine.now + amount
            while machine.now < until:
                machine.now = min(until, machine.now + max(1e-3, epochs.wait(opening, machine.clocks())))
                look()
        else:  # nobody looks meanwhile; the opening is remembered
            machine.now += amount
        look()
    tolerated = 2 * epochs.MOST_TOLERANCE_S
    for _, true_start, true_end in whole:
        assert abs((true_end - true_start) - HOUR) <= tolerated
    numbers = [opening.number for opening, _, _ in whole]
    assert numbers == sorted(set(numbers))
