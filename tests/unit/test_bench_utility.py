"""The study of what noisy figures are worth: its population, its line, and that its releases are real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import population, utility
from jetplane.errors import JetplaneError
from jetplane.metrics.noise import QUANTITIES


def days(seed: int = 1, peers: int = 1_000, count: int = 8) -> list[population.Day]:
    return list(population.days(peers, count, growth=0.01, clips=utility.CLIPS, seed=seed))


def test_a_population_is_its_seeds() -> None:
    assert days() == days() != days(seed=2)


def test_a_few_move_most_and_the_evening_is_busy() -> None:
    for day in days(peers=10_000, count=2):
        assert 2 * min(day.active) < max(day.active) == max(day.active[18:23])
        assert 0 < day.sums["down_clipped_peers"] < 1_000
        assert 0.1 < 1 - day.sums["down_bytes"] / day.unclipped["down_bytes"] < 0.6


def test_every_figure_goes_through_the_ledger_and_none_twice(tmp_path: Path) -> None:
    day = days(count=1)[0]
    told = utility.Node(tmp_path).tell(0, day)
    assert len(told.active) == 24 and set(told.sums) == QUANTITIES.keys() - {"active_peers"}
    assert set(map(type, (*told.active, *told.sums.values()))) == {int}
    book = json.loads((tmp_path / "ledger.json").read_text())
    assert set(book["released_until"]) == {"active", "volume"}
    with pytest.raises(JetplaneError, match="not released again"):
        utility.Node(tmp_path).tell(0, day)
