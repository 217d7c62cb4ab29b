"""No drop reason without a row that shows it, or a session that ends in it."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetplane import abi
from tests.bpf.harness import Case

HERE = Path(__file__)
ROOT = HERE.parents[2]
MAKERS = ("is_dropped", "dropped")


def _rows() -> Iterator[Case]:
    """Every row of every table in this directory."""
    for path in sorted(HERE.parent.rglob("*.py")):
        if path.name in ("conftest.py", HERE.name):
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name, table in vars(module).items():
            if name.isupper():
                yield from _rows_in(table)


def _rows_in(table: object) -> Iterator[Case]:
    """The rows of a table, also where they stand beside other parameters of a test."""
    if isinstance(table, Case):
        yield table
    elif isinstance(table, tuple | list):
        for part in table:
            yield from _rows_in(part)


def _sessions() -> Iterator[str]:
    """The reasons that tests give to `nat_world.is_dropped`, which asserts as much as a row, or make a row of."""
    for path in HERE.parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS:
                yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


@pytest.fixture(scope="module")
def shown() -> frozenset[str | None]:
    """The reasons and counters that tests ask for."""
    return frozenset({row.counter for row in _rows()} | set(_sessions()))


@pytest.mark.parametrize("reason", abi.drop_reasons())
def test_every_drop_reason_has_a_row(shown: frozenset[str | None], reason: str) -> None:
    assert reason in shown, f"nothing in tests/bpf is dropped for {reason}"


def test_every_row_names_a_counter_there_is() -> None:
    known = {None, *abi.drop_reasons(), *abi.counters()}
    assert {row.counter for row in _rows()} <= known
