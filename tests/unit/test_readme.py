"""The tables of the README are made from what they describe. `JETPLANE_UPDATE=1` writes them anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from jetplane.metrics import manifest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SAMPLE = ROOT / "deploy" / "jetplane.toml"

_KEY = re.compile(r"^(?P<default># )?(?P<key>[a-z0-9_]+) = (?P<value>.*?)(?:\s{2,}# (?P<text>.*))?$")
_TABLE = re.compile(r"^\[+(?P<name>[a-z0-9_.]+)\]+(?:\s+# (?P<text>.*))?$")


def configuration_table() -> str:
    """One row a key of the sample configuration; its comments are the documentation."""
    rows, prefix = ["| key | default | meaning |", "| --- | --- | --- |"], ""
    for line in SAMPLE.read_text().splitlines():
        if table := _TABLE.match(line):
            prefix = table["name"].replace("standard", "NAME") + "."
        elif key := _KEY.match(line):
            default = f"`{key['value'].strip()}`" if key["default"] else ""
            rows.append(f"| `{prefix}{key['key']}` | {default} | {key['text'] or ''} |")
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("name", "table"),
    [("configuration", configuration_table), ("metrics", manifest.table)],
    ids=["configuration", "metrics"],
)
def test_the_readme_shows_what_there_is(name: str, table: object) -> None:
    assert callable(table)
    text = README.read_text()
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = text.split(start)
    shown, after = rest.split(end)
    if os.environ.get("JETPLANE_UPDATE"):
        README.write_text(before + start + table() + end + after)
        return
    assert shown == table(), "README.md is out of date: JETPLANE_UPDATE=1 pytest tests/unit/test_readme.py"
