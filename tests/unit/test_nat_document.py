"""ebpf/NAT.md is the specification: every row names tests, and every test it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from jetplane import abi

ROOT = Path(__file__).parents[2]
DOCUMENT = abi.EBPF / "NAT.md"
_NAME = re.compile(r"`(?P<file>tests/[\w/]+\.py)::(?P<test>test_\w+)`")


def rows() -> list[str]:
    """The rows of every table, without their heads."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| ") and not line.startswith(("| requirement |", "| --- |"))]


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.split("|")[1].strip()[:60])
def test_every_row_is_shown_by_tests_that_exist(row: str) -> None:
    assert row.count("|") == 4, "a row has three cells"
    named = list(_NAME.finditer(row))
    assert named, "no test is named"
    for match in named:
        assert match["test"] in names_in(match["file"]), match[0]


def test_the_document_speaks_of_every_rfc_that_the_design_follows() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert {"4787", "5382", "5508", "6888", "7857", "6691"} <= set(re.findall(r"RFC (\d{4})", text))
