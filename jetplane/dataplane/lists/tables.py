"""From prefixes to the tables that the guard looks up (ebpf/source_list.h). Pure.

Overlapping prefixes melt into each other: what is blocked stays blocked, whatever else is said of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from jetplane import abi
from jetplane.dataplane.lists import ipv4, ipv6
from jetplane.dataplane.lists.lines import Lines
from jetplane.dataplane.lists.prefixes import Prefix

_C = abi.constants()


@dataclass(frozen=True, slots=True)
class Tables:
    """One half of every doubled map of the lists."""

    words: array[int]
    """Two bits for each IPv4 /24."""
    lines: array[int]
    """Entries of IPv4 /27s and IPv6 /48s, SOURCE_LINE_ENTRIES in each line."""
    leaves: ipv4.Leaves
    """Whole /24s whose entries found a line full."""
    filter: array[int]
    """Two bits for the hash of each IPv6 /32: where something of it may be."""
    trie: ipv6.Prefixes
    """What the lines do not say of IPv6."""
    listed: int
    """IPv4 /24s in part, or IPv6 prefixes, whichever are more."""


def make(blocked: Iterable[Prefix], bogus: Iterable[Prefix], *, lines: int) -> Tables:
    """Build the tables, with so many lines. A blocked prefix takes precedence over a bogus one."""
    words, every_leaf = ipv4.empty_words(), ipv4.Leaves()
    prefixes: ipv6.Prefixes = {}
    for what, listed in ((_C["SOURCE_BOGON"], bogus), (_C["SOURCE_BLOCKED"], blocked)):
        for prefix in listed:
            if prefix.version == 6:
                prefixes[prefix.first, prefix.length] = what
            else:
                ipv4.add(words, every_leaf, prefix, what)
    entries = Lines(lines)
    leaves = ipv4.still_in_part(words, every_leaf)
    left = ipv4.enter(leaves, entries)
    arranged = ipv6.arrange(prefixes, entries)
    return Tables(words, entries.words, left, arranged.filter, arranged.trie, max(len(leaves), len(prefixes)))
