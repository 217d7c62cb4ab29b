"""Takes the state of one layout over into a larger one, so that raising a limit costs no subscriber a connection.

Only where every element means the same in both: the same maps with the same keys and values, the same exit addresses
(their index is in the keys), and no map that shrinks. Otherwise the new maps start empty, and flows begin anew.
"""

from __future__ import annotations

from pathlib import Path

from jetplane.dataplane import batch
from jetplane.dataplane.layout import Layout, Record
from jetplane.dataplane.maps import Map

_PASSING = frozenset({"steered"})
"""Maps that are left behind: questions are asked again, and whom they are for is nothing to read."""


def is_possible(old: Record, new: Record) -> bool:
    """Whether everything in the old maps has its place in the new ones."""
    return (
        old.exits == new.exits
        and old.maps.keys() == new.maps.keys()
        and all(_fits(old.maps[name], entry) for name, entry in new.maps.items())
    )


def _fits(old: Layout, new: Layout) -> bool:
    return (old.key, old.value) == (new.key, new.value) and old.max_entries <= new.max_entries


def copy(root: Path, old: Record, new: Record) -> None:
    """Copy every element. The old programs still run: what they change meanwhile in what was copied is lost."""
    for name, layout in old.maps.items():
        if name in _PASSING:
            continue
        with Map(root / old.layout, name, layout) as source, Map(root / new.layout, name, new.maps[name]) as target:
            for keys, values in source.raw_chunks():
                batch.update_batch(target.fd, keys, values, source.info.key_size, what=f"map {name}")
