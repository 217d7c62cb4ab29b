"""IPv4 prefixes in a flat array of /24s, and what is blocked of a /24 in part. Pure."""

from __future__ import annotations

from array import array

from jetplane import abi
from jetplane.dataplane.lists.lines import Lines, v4_key
from jetplane.dataplane.lists.prefixes import Prefix

_C = abi.constants()
_BLOCKED, _BOGON, _IN_PART = _C["SOURCE_BLOCKED"], _C["SOURCE_BOGON"], _C["SOURCE_IN_PART"]
_EACH = 0x5555555555555555  # the low bit of each of 32 fields

Leaves = dict[int, int]
"""First 24 bits → 256 bits, one for each address that is blocked."""


def empty_words() -> array[int]:
    """Two bits for each /24, 32 of them in a word."""
    return array("Q", bytes(8 * _C["SOURCE_WORDS"]))


def add(words: array[int], leaves: Leaves, prefix: Prefix, what: int) -> None:
    """Say this of a prefix; a whole /24 takes precedence over its parts, and what is said last over what was before."""
    if prefix.length <= 24:
        _fill(words, prefix.first >> 8, 1 << 24 - prefix.length, what)
    else:
        _mark(words, leaves, prefix)


def _fill(words: array[int], first: int, count: int, what: int) -> None:
    """Give `count` /24s from `first` on this field; a prefix is aligned, so it fills words or lies within one."""
    if count >= 32:
        words[first >> 5 : (first + count) >> 5] = array("Q", [_EACH * what]) * (count >> 5)
        return
    shift = 2 * (first & 31)
    mask = (1 << 2 * count) - 1
    words[first >> 5] = words[first >> 5] & ~(mask << shift) | (_EACH * what & mask) << shift


def _mark(words: array[int], leaves: Leaves, prefix: Prefix) -> None:
    """Block some addresses of a /24; in one that is blocked or bogus as a whole that changes nothing."""
    key = prefix.first >> 8
    if field(words, key) in (_BLOCKED, _BOGON):
        return
    words[key >> 5] |= _IN_PART << 2 * (key & 31)
    bits = (1 << (1 << 32 - prefix.length)) - 1
    leaves[key] = leaves.get(key, 0) | bits << (prefix.first & 0xFF)


def field(words: array[int], key: int) -> int:
    """What is said of the /24 with these first 24 bits."""
    return words[key >> 5] >> 2 * (key & 31) & 3


def still_in_part(words: array[int], leaves: Leaves) -> Leaves:
    """The leaves that count: a /24 that was listed as a whole later needs none."""
    return {key: bits for key, bits in leaves.items() if field(words, key) == _IN_PART}


def enter(leaves: Leaves, lines: Lines) -> Leaves:
    """Give each leaf its entries, one for 32 addresses; return those of which one has found its line full."""
    return {key: bits for key, bits in leaves.items() if not _enter(key, bits, lines)}


def _enter(key: int, bits: int, lines: Lines) -> bool:
    fitted = True
    first = key << 8
    while bits:
        if some := bits & 0xFFFFFFFF:
            address = v4_key(first)
            fitted &= lines.enter(address, some << 32 | address)
        bits >>= 32
        first += 32
    return fitted
