"""Tables into one half of the maps, then the change of halves, then the other half is emptied."""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

from jetplane import abi
from jetplane.dataplane import batch
from jetplane.dataplane.lists.ipv4 import Leaves
from jetplane.dataplane.lists.ipv6 import Prefixes
from jetplane.dataplane.lists.tables import Tables
from jetplane.dataplane.maps import Map

_HALF, _ENTRIES = abi.constants()["HALF_SOURCES"], abi.constants()["SOURCE_LINE_ENTRIES"]
_HALF_BYTE = 4  # of both keys, struct source_prefix's and a leaf's: where their half stands
_CHUNK = 65536
_GRACE_S = 0.1  # no program runs for a thousandth of it: afterwards nobody reads the half of before


def write(maps: Mapping[str, Map], tables: Tables) -> None:
    """Make these the lists that count. Raises KernelError; until the last step the old ones do."""
    current = int(maps["halves"].lookup(_HALF).value)
    half = 1 - current
    _empty(maps, half)  # an attempt that was cut short may have left something
    _write_words(maps["source_words"], half, tables.words)
    _write_words(maps["source_filter"], half, tables.filter)
    _write_words(maps["source_lines"], half, tables.lines, each=_ENTRIES)
    _write_leaves(maps["source_leaves"], half, tables.leaves)
    _write_prefixes(maps["source_prefixes"], half, tables.trie)
    maps["halves"].update(_HALF, half)
    time.sleep(_GRACE_S)
    _empty(maps, current)


def _write_words(target: Map, half: int, words: array[int], *, each: int = 1) -> None:
    """Write a half of an array whose values are so many words each."""
    values = len(words) // each
    for start in range(0, values, _CHUNK):
        part = words[start * each : (start + _CHUNK) * each]
        first = half * values + start
        keys = array("I", range(first, first + len(part) // each)).tobytes()
        batch.update_batch(target.fd, keys, part.tobytes(), target.info.key_size, what=f"map {target.name}")


def _write_leaves(target: Map, half: int, leaves: Leaves) -> None:
    for chunk in _chunks(leaves.items()):
        keys = array("Q", [half << 32 | key for key, _ in chunk]).tobytes()
        values = b"".join(bits.to_bytes(32, "little") for _, bits in chunk)
        batch.update_batch(target.fd, keys, values, target.info.key_size, what=f"map {target.name}")


def _write_prefixes(target: Map, half: int, prefixes: Prefixes) -> None:
    fixed = abi.constants()["SOURCE_PREFIX_FIXED_BITS"]
    for chunk in _chunks(prefixes.items()):
        keys = b"".join(struct.pack("=II", fixed + length, half) + first.to_bytes(16) for (first, length), _ in chunk)
        values = array("I", [what for _, what in chunk]).tobytes()
        batch.update_batch(target.fd, keys, values, target.info.key_size, what=f"map {target.name}")


def _empty(maps: Mapping[str, Map], half: int) -> None:
    """Remove what the two maps that grow hold of this half; the flat ones are written over as a whole."""
    for name in ("source_leaves", "source_prefixes"):
        target = maps[name]
        size = target.info.key_size
        for keys, _ in list(target.raw_chunks()):
            ours = (keys[at : at + size] for at in range(0, len(keys), size) if keys[at + _HALF_BYTE] == half)
            batch.delete_batch(target.fd, b"".join(ours), size, what=f"map {name}")


_Item = TypeVar("_Item")


def _chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
