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
_HASH = 2654435769


@dataclass(slots=True)
class Tables:
    """One half of every doubled map of the lists."""

    words: array[int] = field(default_factory=lambda: array("Q", bytes(8 * _C["SOURCE_WORDS"])))
    """Two bits for each IPv4 /24."""
    leaves: dict[int, int] = field(default_factory=dict)
    """First 24 bits → 256 bits, one for each address that is blocked."""
    filter: array[int] = field(default_factory=lambda: array("Q", bytes(8 * _C["SOURCE_FILTER_WORDS"])))
    """One bit for the hash of each IPv6 /32 that the tries may know."""
    prefixes: dict[tuple[int, int], int] = field(default_factory=dict)
    """IPv6 (first address, length) → SOURCE_BLOCKED or SOURCE_BOGON."""


def make(blocked: Iterable[Prefix], bogus: Iterable[Prefix]) -> Tables:
    """Build the tables. A blocked prefix takes precedence over a bogus one."""
    tables = Tables()
    for prefix in bogus:
        _add(tables, prefix, _BOGON)
    for prefix in blocked:
        _add(tables, prefix, _BLOCKED)
    tables.leaves = {key: bits for key, bits in tables.leaves.items() if _field(tables.words, key) == _IN_PART}
    _cover(tables)
    return tables


def _add(tables: Tables, prefix: Prefix, what: int) -> None:
    if prefix.version == 6:
        known = tables.prefixes.get((prefix.first, prefix.length))
        if known != _BLOCKED:
            tables.prefixes[prefix.first, prefix.length] = what
    elif prefix.length <= 24:
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


def _cover(tables: Tables) -> None:
    """Drop bogus prefixes inside of blocked ones, since the longest match wins in a trie; then fill the filter."""
    blocked = {entry for entry, what in tables.prefixes.items() if what == _BLOCKED}
    lengths = sorted({length for _, length in blocked})
    for first, length in [entry for entry, what in tables.prefixes.items() if what == _BOGON]:
        if any((first >> 128 - n << 128 - n, n) in blocked for n in lengths if n < length):
            del tables.prefixes[first, length]
    for first, length in tables.prefixes:
        if first >> 125 != 1:
            continue  # outside of global unicast the tries are always asked
        low = first >> 96
        for number in range(low, low + (1 << max(0, 32 - length))):
            bit = filter_bit(number)
            tables.filter[bit >> 6] |= 1 << (bit & 63)


def filter_bit(first: int) -> int:
    """The bit of an address's first 32 bits, a number in host order; as source_filter_bit() of source_list.h."""
    return (first * _HASH & 0xFFFFFFFF) >> 32 - _C["SOURCE_FILTER_BITS"]
