"""Takes tables out of a TOML file as text, so that the rest of it, comments and all, stays byte by byte.

A parser that keeps comments needs a millisecond for every table there is, minutes for a hundred thousand.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Collection

_HEADER = re.compile(r"^[ \t]*\[")
_PEER = re.compile(r"^[ \t]*\[\[[ \t]*peer[ \t]*\]\][ \t]*(#.*)?$")
_NOTHING = re.compile(r"^[ \t]*(#.*)?$")


def without_peers(text: str, positions: Collection[int]) -> str | None:
    """The text without the `[[peer]]` tables of these positions; None when it is not certain that only they go.

    A comment after the last key of a table belongs to what follows it.
    """
    lines = text.splitlines(keepends=True)
    headers = [number for number, line in enumerate(lines) if _HEADER.match(line)]
    starts = [number for number in headers if _PEER.match(lines[number].rstrip("\r\n"))]
    ends = dict(itertools.pairwise([*headers, len(lines)]))
    doomed: set[int] = set()
    for position in positions:
        if position >= len(starts):
            return None
        start, end = starts[position], ends[starts[position]]
        while end > start + 1 and _NOTHING.match(lines[end - 1].rstrip("\r\n")):
            end -= 1
        doomed.update(range(start, end))
        if end < len(lines) and not lines[end].strip() and (start == 0 or not lines[start - 1].strip()):
            doomed.add(end)  # one of the two empty lines round it
    after = "".join(line for number, line in enumerate(lines) if number not in doomed)
    return after if _is_the_rest(text, after, frozenset(positions)) else None


def _is_the_rest(before: str, after: str, positions: frozenset[int]) -> bool:
    try:
        old, new = tomllib.loads(before), tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        return False
    kept = [peer for position, peer in enumerate(old.get("peer", ())) if position not in positions]
    return new.pop("peer", []) == kept and new == {key: value for key, value in old.items() if key != "peer"}
