"""IPv6 prefixes as entries of /48s, a trie for what these cannot say, and a filter that tells where to ask. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from jetplane import abi
from jetplane.dataplane.lists.lines import Lines, v6_key

_C = abi.constants()
_BLOCKED, _BOGON, _IN_PART = _C["SOURCE_BLOCKED"], _C["SOURCE_BOGON"], _C["SOURCE_IN_PART"]
_IN_LINES, _IN_TRIE = _C["SOURCE_IN_LINES"], _C["SOURCE_IN_TRIE"]
_SHORTEST = _C["SOURCE_LINE_SHORTEST"]
_HASH = 2654435769

Prefixes = dict[tuple[int, int], int]
"""(first address, length) → SOURCE_BLOCKED or SOURCE_BOGON."""


@dataclass(slots=True)
class Arranged:
    """Where else than in the lines the prefixes are."""

    trie: Prefixes = field(default_factory=dict)
    filter: array[int] = field(default_factory=lambda: array("Q", bytes(8 * _C["SOURCE_FILTER_WORDS"])))
    """Two bits for the hash of each /32: where something of it may be."""


def arrange(prefixes: Prefixes, lines: Lines) -> Arranged:
    """Give each /48 of which something is listed its entry, and the trie the rest.

    Beside global unicast there is no filter and there are no entries: the trie is always asked.
    """
    made = Arranged()
    entries: dict[int, int] = {}  # key → what its entry says
    inside: Prefixes = {}
    for (first, length), what in _counting(prefixes).items():
        if first >> 125 != 1:
            made.trie[first, length] = what
        elif length < _SHORTEST:
            made.trie[first, length] = what
            _tell(made.filter, range(first >> 96, (first >> 96) + (1 << max(0, 32 - length))), _IN_TRIE)
        elif length > 48:
            inside[first, length] = what
        else:
            for key in range(v6_key(first), v6_key(first) + (1 << 64 - length), 1 << 16):
                if entries.get(key) != _BLOCKED:
                    entries[key] = what
    for (first, length), what in inside.items():
        key = v6_key(first)
        whole = entries.get(key)
        if whole in (_BLOCKED, what):
            continue  # it says nothing more
        if whole == _BOGON:
            made.trie[_longest(prefixes, key)] = _BOGON
        entries[key] = _IN_PART
        made.trie[first, length] = what
    _tell(made.filter, {key >> 32 for key in entries}, _IN_LINES)
    for key, what in entries.items():
        # What finds its line full goes to the trie as it came, so that no list has more there than it has prefixes.
        if not lines.enter(key, key | what) and what != _IN_PART:
            made.trie[_longest(prefixes, key)] = what
    return made


def _counting(prefixes: Prefixes) -> Prefixes:
    """All but bogus prefixes inside of blocked ones: the longest match wins in a trie."""
    blocked = {entry for entry, what in prefixes.items() if what == _BLOCKED}
    lengths = sorted({length for _, length in blocked})

    def is_within(first: int, length: int) -> bool:
        return any((first >> 128 - n << 128 - n, n) in blocked for n in lengths if n < length)

    return {entry: what for entry, what in prefixes.items() if what == _BLOCKED or not is_within(*entry)}


def _tell(words: array[int], firsts: Iterable[int], where: int) -> None:
    """Let the filter say that something of these /32s, numbers in host order, is there."""
    for first in firsts:
        place = filter_place(first)
        words[place >> 5] |= where << 2 * (place & 31)


def _longest(prefixes: Prefixes, key: int) -> tuple[int, int]:
    """The prefix that gave a /48 its entry."""
    shorter = ((key >> 64 - length << 128 - length, length) for length in range(48, _SHORTEST - 1, -1))
    return next(prefix for prefix in shorter if prefix in prefixes)


def filter_place(first: int) -> int:
    """The field of an address's first 32 bits, a number in host order; as source_filter_place() of source_list.h."""
    return (first * _HASH & 0xFFFFFFFF) >> 32 - _C["SOURCE_FILTER_BITS"]
