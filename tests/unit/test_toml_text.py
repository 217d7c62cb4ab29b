"""Taking peers out of the operator's own TOML."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetplane.sources.toml_text import without_peers

FILE = """\
# the operator's own words
[[peer]]  # the first
public_key = "a"
allowed_ips = [
  "10.64.0.2/32",   # spread over lines
]

# about the second
[[peer]]
public_key = "b"

[[ peer ]]
public_key = "c"
# a last word
"""


def test_what_is_not_asked_for_stays_byte_by_byte() -> None:
    assert without_peers(FILE, [1]) == FILE.replace('[[peer]]\npublic_key = "b"\n', "")
    assert without_peers(FILE, [0, 1, 2]) == "# the operator's own words\n\n# about the second\n\n# a last word\n"
    assert without_peers(FILE, []) == FILE


@pytest.mark.parametrize(
    "text",
    [
        'peer = [{ public_key = "a" }]\n',
        'note = """\n[[peer]]\n"""\n[[peer]]\npublic_key = "a"\n',
        '[[peer]]\npublic_key = "a"\n[peer.more]\nx = 1\n',
        "no TOML at all",
    ],
    ids=["inline", "a header inside a string", "a table inside a table", "no TOML"],
)
def test_where_it_is_not_certain_nothing_is_taken(text: str) -> None:
    assert without_peers(text, [0]) is None


LINES = st.sampled_from(["", "# a comment", "  # another", "[other]", "x = 1"])
TABLES = st.tuples(st.integers(0, 99), st.lists(LINES.filter(lambda line: line[:1] not in ("[", "x")), max_size=3))


@given(st.lists(TABLES, max_size=6), st.sets(st.integers(0, 5)), st.sampled_from(["\n", "\r\n"]))
def test_of_any_file_exactly_those_go(tables: list[tuple[int, list[str]]], positions: set[int], newline: str) -> None:
    text = "".join(newline.join(["[[peer]]", f"n = {n}", *more]) + newline for n, more in tables)
    after = without_peers(text, positions)
    if any(position >= len(tables) for position in positions):
        assert after is None
        return
    assert after is not None
    kept = [{"n": n} for at, (n, _) in enumerate(tables) if at not in positions]
    assert tomllib.loads(after).get("peer", []) == kept
    assert all(line in after for _, more in tables for line in more)
