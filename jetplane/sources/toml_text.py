"""Takes tables out of a TOML file, or sets flags in them, as text: the rest, comments and all, stays byte by byte.

A parser that keeps comments needs a millisecond for every table there is, minutes for a hundred thousand.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from typing import Any

_HEADER = re.compile(r"^[ \t]*\[")
_PEER = re.compile(r"^[ \t]*\[\[[ \t]*peer[ \t]*\]\][ \t]*(#.*)?$")
_NOTHING = re.compile(r"^[ \t]*(#.*)?$")
_FLAG = re.compile(r"^([ \t]*([a-z_]+)[ \t]*=[ \t]*)(true|false)\b")


def without_peers(text: str, positions: Collection[int]) -> str | None:
    """The text without the `[[peer]]` tables of these positions; None when it is not certain that only they go.

    A comment after the last key of a table belongs to what follows it.
    """
    lines = text.splitlines(keepends=True)
    tables = _tables(lines)
    doomed: set[int] = set()
    for position in positions:
        if position >= len(tables):
            return None
        start, end = tables[position]
        doomed.update(range(start, end))
        if end < len(lines) and not lines[end].strip() and (start == 0 or not lines[start - 1].strip()):
            doomed.add(end)  # one of the two empty lines round it
    after = "".join(line for number, line in enumerate(lines) if number not in doomed)
    return after if _is_the_rest(text, after, frozenset(positions)) else None


def with_flags(text: str, positions: Collection[int], flags: Mapping[str, bool]) -> str | None:
    """The text with these flags in the `[[peer]]` tables of these positions; None when it is not certain.

    A flag that stands there keeps its place and its comment; another one is added at the table's end.
    """
    lines = text.splitlines(keepends=True)
    tables = _tables(lines)
    for position in sorted(positions, reverse=True):  # the last first: lines are added
        if position >= len(tables):
            return None
        start, end = tables[position]
        for name, flag in flags.items():
            value = "true" if flag else "false"
            found = [(at, match) for at in range(start, end) if (match := _FLAG.match(lines[at])) and match[2] == name]
            if found:
                at, match = found[0]
                lines[at] = f"{match[1]}{value}{lines[at][match.end() :]}"
            else:
                ending = lines[start][len(lines[start].rstrip("\r\n")) :] or "\n"
                if not lines[end - 1].endswith("\n"):
                    lines[end - 1] += ending
                lines.insert(end, f"{name} = {value}{ending}")
                end += 1
    after = "".join(lines)
    return after if _is_changed(text, after, frozenset(positions), flags) else None


def _tables(lines: list[str]) -> list[tuple[int, int]]:
    """Where each `[[peer]]` table begins and where, behind its last key, it ends: numbers of lines."""
    headers = [number for number, line in enumerate(lines) if _HEADER.match(line)]
    found = []
    for start, end in itertools.pairwise([*headers, len(lines)]):
        if not _PEER.match(lines[start].rstrip("\r\n")):
            continue
        last = end
        while last > start + 1 and _NOTHING.match(lines[last - 1].rstrip("\r\n")):
            last -= 1
        found.append((start, last))
    return found


def _is_the_rest(before: str, after: str, positions: frozenset[int]) -> bool:
    """Whether nothing but the peers of these positions is gone."""
    return _as_expected(before, after, lambda position, peer: () if position in positions else (peer,))


def _is_changed(before: str, after: str, positions: frozenset[int], flags: Mapping[str, bool]) -> bool:
    """Whether nothing but these flags of these peers is another."""
    return _as_expected(before, after, lambda position, peer: (peer | flags if position in positions else peer,))


def _as_expected(before: str, after: str, expected: Callable[[int, Any], tuple[Any, ...]]) -> bool:
    try:
        old, new = tomllib.loads(before), tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        return False
    peers = [item for position, peer in enumerate(old.pop("peer", ())) for item in expected(position, peer)]
    return new.pop("peer", []) == peers and new == old
