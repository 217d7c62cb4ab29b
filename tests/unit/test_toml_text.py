"""Taking peers out of the operator's own TOML, and setting flags in it."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetplane.sources.toml_text import with_flags, without_peers

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


FLAGGED = """\
[[peer]]
public_key = "a"
restricted = true  # until the fee is paid
# about the second
[[peer]]
public_key = "b"
# a last word"""


def test_a_flag_that_stands_there_keeps_its_place_and_its_comment() -> None:
    assert with_flags(FLAGGED, [0], {"restricted": False}) == FLAGGED.replace("= true", "= false")
    both = {"restricted": True, "statistics": False}
    assert with_flags(FLAGGED, [0], both) == FLAGGED.replace("is paid\n", "is paid\nstatistics = false\n")


def test_a_flag_that_does_not_is_added_behind_the_last_key() -> None:
    new = FLAGGED.replace('"b"\n', '"b"\nrestricted = true\n')
    assert with_flags(FLAGGED, [1], {"restricted": True}) == new
    assert with_flags("[[peer]]\r\nx = 1", [0], {"restricted": True}) == "[[peer]]\r\nx = 1\r\nrestricted = true\r\n"


@pytest.mark.parametrize(
    "text",
    [
        'peer = [{ public_key = "a" }]\n',
        '[[peer]]\nnote = """\nrestricted = true\n"""\n',
        '[[peer]]\n"restricted" = true\n',
        '[[peer]]\npublic_key = "a"\n[peer.more]\nrestricted = true\n[[peer]]\nx = [\n[1],\n]\n',
        "no TOML at all",
    ],
    ids=["inline", "in a string", "quoted", "an array that looks like a header", "no TOML"],
)
def test_where_it_is_not_certain_no_flag_is_set(text: str) -> None:
    assert with_flags(text, [text.count("[[peer]]") - 1 if "[[peer]]" in text else 0], {"restricted": False}) is None


@given(
    st.lists(TABLES, min_size=1, max_size=6),
    st.sets(st.integers(0, 5)),
    st.dictionaries(st.sampled_from(["restricted", "statistics"]), st.booleans()),
    st.sampled_from(["\n", "\r\n"]),
)
def test_of_any_file_exactly_those_change(
    tables: list[tuple[int, list[str]]], positions: set[int], flags: dict[str, bool], newline: str
) -> None:
    text = "".join(newline.join(["[[peer]]", f"n = {n}", *more]) + newline for n, more in tables)
    after = with_flags(text, positions, flags)
    if any(position >= len(tables) for position in positions):
        assert after is None
        return
    assert after is not None
    peers = [{"n": n} | (flags if at in positions else {}) for at, (n, _) in enumerate(tables)]
    assert tomllib.loads(after)["peer"] == peers
    assert all(line in after for _, more in tables for line in more)
