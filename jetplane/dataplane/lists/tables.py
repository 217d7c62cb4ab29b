"""From prefixes to the tables that the guard looks up (ebpf/source_list.h). Pure.

Overlapping prefixes melt into each other: what is blocked stays blocked, whatever else is said of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from jetplane import abi
from jetplane.dataplane.lists.prefixes import Prefix

_C = abi.constants()
_BLOCKED, _BOGON, _IN_PART = _C["SOURCE_BLOCKED"], _C["SOURCE_BOGON"], _C["SOURCE_IN_PART"]
_EACH = 0x5555555555555555  # the low bit of each of 32 fields
_HASH, _HASH64 = 2654435769, 0x9E3779B97F4A7C15
_IN_LINES, _IN_TRIE = _C["SOURCE_IN_LINES"], _C["SOURCE_IN_TRIE"]
_ENTRIES, _SHORTEST = _C["SOURCE_LINE_ENTRIES"], _C["SOURCE_LINE_SHORTEST"]

Prefixes = dict[tuple[int, int], int]
"""IPv6 (first address, length) → SOURCE_BLOCKED or SOURCE_BOGON."""


@dataclass(slots=True)
class Tables:
    """One half of every doubled map of the lists."""

    lines: array[int]
    """Entries of IPv6 /48s, SOURCE_LINE_ENTRIES in each line."""

    words: array[int] = field(default_factory=lambda: array("Q", bytes(8 * _C["SOURCE_WORDS"])))
    """Two bits for each IPv4 /24."""
    leaves: dict[int, int] = field(default_factory=dict)
    """First 24 bits → 256 bits, one for each address that is blocked."""
    filter: array[int] = field(default_factory=lambda: array("Q", bytes(8 * _C["SOURCE_FILTER_WORDS"])))
    """Two bits for the hash of each IPv6 /32: where something of it may be."""
    trie: Prefixes = field(default_factory=dict)
    """What the lines do not say."""
    ipv6: int = 0
    """How many IPv6 prefixes there are in all."""


def make(blocked: Iterable[Prefix], bogus: Iterable[Prefix], *, lines: int) -> Tables:
    """Build the tables, with so many lines. A blocked prefix takes precedence over a bogus one."""
    tables = Tables(array("Q", bytes(8 * _ENTRIES * lines)))
    prefixes: Prefixes = {}
    for what, listed in ((_BOGON, bogus), (_BLOCKED, blocked)):
        for prefix in listed:
            if prefix.version == 6:
                prefixes[prefix.first, prefix.length] = what
            else:
                _add(tables, prefix, what)
    tables.leaves = {key: bits for key, bits in tables.leaves.items() if _field(tables.words, key) == _IN_PART}
    tables.ipv6 = len(prefixes)
    _cover(prefixes)
    _arrange(tables, prefixes)
    return tables


def _add(tables: Tables, prefix: Prefix, what: int) -> None:
    if prefix.length <= 24:
        _fill(tables.words, prefix.first >> 8, 1 << 24 - prefix.length, what)
    else:
        _mark(tables, prefix)


def _fill(words: array[int], first: int, count: int, what: int) -> None:
    """Give `count` /24s from `first` on this field; a prefix is aligned, so it fills words or lies within one."""
    if count >= 32:
        words[first >> 5 : (first + count) >> 5] = array("Q", [_EACH * what]) * (count >> 5)
        return
    shift = 2 * (first & 31)
    mask = (1 << 2 * count) - 1
    words[first >> 5] = words[first >> 5] & ~(mask << shift) | (_EACH * what & mask) << shift


def _mark(tables: Tables, prefix: Prefix) -> None:
    """Block some addresses of a /24; in one that is blocked or bogus as a whole that changes nothing."""
    key = prefix.first >> 8
    if _field(tables.words, key) in (_BLOCKED, _BOGON):
        return
    tables.words[key >> 5] |= _IN_PART << 2 * (key & 31)
    bits = (1 << (1 << 32 - prefix.length)) - 1
    tables.leaves[key] = tables.leaves.get(key, 0) | bits << (prefix.first & 0xFF)


def _field(words: array[int], key: int) -> int:
    return words[key >> 5] >> 2 * (key & 31) & 3


def _cover(prefixes: Prefixes) -> None:
    """Drop bogus prefixes inside of blocked ones, since the longest match wins in a trie."""
    blocked = {entry for entry, what in prefixes.items() if what == _BLOCKED}
    lengths = sorted({length for _, length in blocked})
    for first, length in [entry for entry, what in prefixes.items() if what == _BOGON]:
        if any((first >> 128 - n << 128 - n, n) in blocked for n in lengths if n < length):
            del prefixes[first, length]


def _arrange(tables: Tables, prefixes: Prefixes) -> None:
    """Give each /48 of which something is listed its entry, and the trie the rest; the filter tells where to ask.

    Beside global unicast there is no filter and there are no entries: the trie is always asked.
    """
    entries: dict[int, int] = {}  # the first 48 bits → what an entry says
    inside: Prefixes = {}
    for (first, length), what in prefixes.items():
        if first >> 125 != 1:
            tables.trie[first, length] = what
        elif length < _SHORTEST:
            tables.trie[first, length] = what
            _tell(tables, range(first >> 96, (first >> 96) + (1 << max(0, 32 - length))), _IN_TRIE)
        elif length > 48:
            inside[first, length] = what
        else:
            for key in range(first >> 80, (first >> 80) + (1 << 48 - length)):
                if entries.get(key) != _BLOCKED:
                    entries[key] = what
    for (first, length), what in inside.items():
        whole = entries.get(first >> 80)
        if whole in (_BLOCKED, what):
            continue  # it says nothing more
        if whole == _BOGON:
            tables.trie[_longest(prefixes, first >> 80)] = _BOGON
        entries[first >> 80] = _IN_PART
        tables.trie[first, length] = what
    _tell(tables, {key >> 16 for key in entries}, _IN_LINES)
    _enter(tables, entries, prefixes)


def _tell(tables: Tables, firsts: Iterable[int], where: int) -> None:
    """Let the filter say that something of these /32s, numbers in host order, is there."""
    for first in firsts:
        place = filter_place(first)
        tables.filter[place >> 5] |= where << 2 * (place & 31)


def _enter(tables: Tables, entries: dict[int, int], prefixes: Prefixes) -> None:
    """Write the entries; what finds its line full goes to the trie as it came, so that no list has more there than it
    has prefixes."""
    used = bytearray(len(tables.lines) // _ENTRIES)
    for key, what in entries.items():
        line = line_index(key, len(used))
        if used[line] < _ENTRIES:
            tables.lines[line * _ENTRIES + used[line]] = key << 16 | what
            used[line] += 1
        elif what != _IN_PART:
            tables.trie[_longest(prefixes, key)] = what


def _longest(prefixes: Prefixes, key: int) -> tuple[int, int]:
    """The prefix that gave a /48 its entry."""
    shorter = ((key >> 48 - length << 128 - length, length) for length in range(48, _SHORTEST - 1, -1))
    return next(prefix for prefix in shorter if prefix in prefixes)


def filter_place(first: int) -> int:
    """The field of an address's first 32 bits, a number in host order; as source_filter_place() of source_list.h."""
    return (first * _HASH & 0xFFFFFFFF) >> 32 - _C["SOURCE_FILTER_BITS"]


def line_index(key: int, lines: int) -> int:
    """Which of the lines has the entry of an address's first 48 bits; as source_line_index() of source_list.h."""
    return ((key << 16) * _HASH64 >> 32 & 0xFFFFFFFF) * lines >> 32
