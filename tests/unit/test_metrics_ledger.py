"""The ledger: nothing is released twice, and no day costs more than it may, whatever comes in whatever order."""

from __future__ import annotations

import os
import stat
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetplane.metrics import ledger
from jetplane.metrics.ledger import Ledger, NotReleased, spend
from jetplane.metrics.noise import DAY_S

HOUR = 3_600
RHO = Fraction(1, 2592)
MIDNIGHT = 20_000 * DAY_S


def test_a_day_of_hours_is_spent_and_not_one_more() -> None:
    kept = Ledger()
    for hour in range(24):
        kept = spend(kept, "active", MIDNIGHT + hour * HOUR, HOUR, RHO, 24 * RHO)
    assert kept.spent_on(20_000) == 24 * RHO
    with pytest.raises(NotReleased, match="privacy budget"):
        spend(kept, "volume", MIDNIGHT, DAY_S, RHO, 24 * RHO)
    spend(kept, "active", MIDNIGHT + DAY_S, HOUR, RHO, 24 * RHO)  # the next day has its own


@pytest.mark.parametrize(("start", "length"), [(0, HOUR), (0, 60), (HOUR - 60, 60), (-HOUR, HOUR)])
def test_no_part_of_a_released_time_is_released_again(start: int, length: int) -> None:
    kept = spend(Ledger(), "active", MIDNIGHT, HOUR, RHO, Fraction(1))
    with pytest.raises(NotReleased, match="not released again"):
        spend(kept, "active", MIDNIGHT + start, length, RHO, Fraction(1))


REQUESTS = st.lists(
    st.tuples(st.sampled_from(("active", "volume")), st.integers(0, 400), st.sampled_from((900, HOUR, DAY_S))),
    max_size=60,
)


@given(REQUESTS)
def test_released_times_never_overlap_and_no_day_exceeds_its_limit(requests: list[tuple[str, int, int]]) -> None:
    kept, limit = Ledger(), 5 * RHO
    released: list[tuple[str, int, int]] = []
    for name, number, length in requests:
        start = MIDNIGHT + number * 900 // length * length
        try:
            kept = spend(kept, name, start, length, RHO, limit)
        except NotReleased:
            continue
        released.append((name, start, start + length))
    for at, (name, _, end) in enumerate(released):
        assert all(other != name or begin >= end for other, begin, _ in released[at + 1 :])
    days = [ledger.day_of(start) for _, start, _ in released]
    assert all(days.count(day) * RHO <= limit for day in days)


def test_what_is_saved_is_read_back_and_is_root_s_alone(tmp_path: Path) -> None:
    path = tmp_path / ledger.FILE
    assert ledger.load(path) == Ledger()
    kept = spend(Ledger(), "active", MIDNIGHT, HOUR, RHO, Fraction(1))
    previous = os.umask(0)
    try:
        ledger.save(path, kept)
    finally:
        os.umask(previous)
    assert ledger.load(path) == kept
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"spent": {}}', '{"released_until": {}, "spent": {"1": "1/0"}}'])
def test_a_ledger_that_cannot_be_understood_allows_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / ledger.FILE
    path.write_text(text)
    with pytest.raises(NotReleased, match="is no ledger"):
        ledger.load(path)


def test_a_ledger_that_cannot_be_read_or_written_allows_nothing(tmp_path: Path) -> None:
    path = tmp_path / ledger.FILE
    path.mkdir()
    with pytest.raises(NotReleased, match="cannot be read"):
        ledger.load(path)
    with pytest.raises(NotReleased, match="cannot be written"):
        ledger.save(path, Ledger())
    with pytest.raises(NotReleased, match="cannot be written: No such file"):
        ledger.save(tmp_path / "nowhere" / ledger.FILE, Ledger())
