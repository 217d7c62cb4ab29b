"""jetplane/privacy/PRIVACY.md: every test, command and check that it names exists; its inventory is the real one."""

from __future__ import annotations

import ast
import os
import re
from functools import cache
from pathlib import Path

import click
import pytest

from jetplane.cli.main import cli
from jetplane.privacy import inventory
from jetplane.privacy.checks import QUESTIONS

ROOT = Path(__file__).parents[2]
DOCUMENT = inventory.FILE.with_name("PRIVACY.md")
_TEST = re.compile(r"`(?P<file>tests/[\w/]+\.py)::(?P<test>test_\w+)`")
_WORDS = re.compile(r"`([^`]+)`")
START, END = "<!-- inventory -->\n", "<!-- /inventory -->"


def rows() -> list[str]:
    """The rows of the tables before the inventory, without their heads, which name nothing."""
    lines = DOCUMENT.read_text(encoding="utf-8").partition(START)[0].splitlines()
    return [line for line in lines if line.startswith("| ") and "`" in line]


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def is_command(words: str) -> bool:
    """Whether `jetplane peers report` and the like is one."""
    found: click.Command | None = cli
    for word in words.split()[1:]:
        found = found.get_command(click.Context(found), word) if isinstance(found, click.Group) else None
    return found is not None


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.split("|")[1].strip()[:60])
def test_every_row_names_tests_commands_and_checks_that_exist(row: str) -> None:
    _, _, _, tests, live, _ = row.split("|")
    named = list(_TEST.finditer(tests))
    assert named, "no test is named"
    assert len(named) == len(_WORDS.findall(tests))
    for match in named:
        assert match["test"] in names_in(match["file"]), match[0]
    checks = {question.name for question in QUESTIONS}
    shown = _WORDS.findall(live)
    assert shown, "nothing to look at on a live node"
    for words in shown:
        assert is_command(words) if words.startswith("jetplane ") else words in checks, words


def test_every_check_belongs_to_a_promise() -> None:
    named = {words for row in rows() for words in _WORDS.findall(row.split("|")[4])}
    assert {question.name for question in QUESTIONS} <= named


def inventory_table() -> str:
    lines = ["| place | may hold | must not hold | kept by | checks |", "| --- | --- | --- | --- | --- |"]
    for place in inventory.inventory().places:
        checks = ", ".join(f"`{check}`" for check in place.checks) or "by tests alone"
        lines.append(f"| {place.name} | {place.may_hold} | {place.must_not_hold} | {place.kept_by} | {checks} |")
    return "\n".join(lines) + "\n"


def test_the_inventory_is_shown_as_it_is() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    shown, _, after = rest.partition(END)
    if os.environ.get("JETPLANE_UPDATE"):
        DOCUMENT.write_text(before + START + inventory_table() + END + after, encoding="utf-8")
        return
    assert shown == inventory_table(), "PRIVACY.md is out of date: JETPLANE_UPDATE=1 pytest on this file"


def test_the_readme_leads_here() -> None:
    assert "(jetplane/privacy/PRIVACY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
