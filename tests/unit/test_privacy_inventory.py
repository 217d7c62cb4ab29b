"""The inventory names what there is: every check, every test, every map, every program."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from jetplane import abi
from jetplane.dataplane.programs import PROGRAMS
from jetplane.privacy.checks import QUESTIONS
from jetplane.privacy.inventory import ABOUT, Place, inventory

ROOT = Path(__file__).parents[2]
PLACES = inventory().places


def test_every_check_is_named_and_every_check_that_is_named_exists() -> None:
    named = [check for place in PLACES for check in place.checks]
    assert sorted(named) == sorted(question.name for question in QUESTIONS)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_every_place_says_how_it_is_kept_and_is_tested(place: Place) -> None:
    assert place.may_hold and place.must_not_hold and place.kept_by
    assert place.checks or place.tests
    for name in place.tests:
        file, _, test = name.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert (test in functions) if test else any(function.startswith("test_") for function in functions), name


def test_every_map_and_every_program_has_its_row() -> None:
    assert inventory().maps.keys() == abi.maps().keys()
    assert inventory().programs.keys() == {program.name for program in PROGRAMS}
    assert {holding.about for holding in inventory().maps.values()} <= ABOUT
    assert all(holding.until for holding in inventory().maps.values())
    assert all(inventory().programs.values())
