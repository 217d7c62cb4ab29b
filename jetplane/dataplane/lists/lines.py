"""Entries that the guard finds by a hash in one cache line (struct source_line in ebpf/abi.h). Pure."""

from __future__ import annotations

from array import array

from jetplane import abi

_C = abi.constants()
_ENTRIES, _V4 = _C["SOURCE_LINE_ENTRIES"], _C["SOURCE_ENTRY_V4"]
_HASH = 0x9E3779B97F4A7C15


class Lines:
    """So many lines of SOURCE_LINE_ENTRIES words, of one half, filled from the front."""

    def __init__(self, count: int) -> None:
        self.words = array("Q", bytes(8 * _ENTRIES * count))
        self._used = bytearray(count)

    def enter(self, key: int, entry: int) -> bool:
        """Write the entry of a key, unless its line is full; whether it was written."""
        line = line_index(key, len(self._used))
        used = self._used[line]
        if used == _ENTRIES:
            return False
        self.words[line * _ENTRIES + used] = entry
        self._used[line] = used + 1
        return True


def v4_key(address: int) -> int:
    """The key of the 32 addresses around an IPv4 address, a number in host order; as source_v4_key()."""
    return address >> 5 << 4 | _V4


def v6_key(address: int) -> int:
    """The key of the /48 of an IPv6 address, a number in host order; as source_v6_key()."""
    return address >> 80 << 16


def line_index(key: int, lines: int) -> int:
    """Which of the lines has the entry of a key; as source_line_index()."""
    return (key * _HASH >> 32 & 0xFFFFFFFF) * lines >> 32
