"""tests/ATTACKS.md names tests for all 24 attacks, and every test it names exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_nat_document import _NAME, names_in

DOCUMENT = Path(__file__).parents[1] / "ATTACKS.md"
ROWS = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]


def test_all_attacks_are_there_in_order() -> None:
    assert [row.split("|")[1].strip() for row in ROWS[1:]] == [str(number) for number in range(1, 25)]


@pytest.mark.parametrize("row", ROWS[1:], ids=lambda row: "attack" + row.split("|")[1])
def test_every_attack_has_a_control_and_tests_that_exist(row: str) -> None:
    assert row.count("|") == 5, "a row has four cells"
    named = list(_NAME.finditer(row))
    assert named and row.split("|")[4].strip()
    for match in named:
        assert match["test"] in names_in(match["file"]), match[0]
