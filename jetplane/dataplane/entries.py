"""Peers in the maps: `addresses` says whose an inner address is, `peers` what its owner may do.

Every change is ordered so that at no moment a packet is taken for another peer's: addresses that lose their owner
go first, then the peers change, then addresses are given out.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from jetplane.dataplane.maps import Map
from jetplane.model import InnerAddress, Rate
from jetplane.plan import Entry, EntryStep, RemoveEntry, SetEntry

_FEW = 32
"""Up to this many indices, searching for each is quicker than a look at every element."""

_ONE_LOOKUP = 16
"""Looking one element up costs about as much as reading so many in batches."""


def observe(addresses: Map, peers: Map) -> Iterator[tuple[int, Entry]]:
    """(index, entry) of every peer, and of every index that owns an address, in the order of indices.

    The addresses are read first; of 200,000 of them no more is kept than their bytes and three arrays.
    """
    owned = _Owned(peers.info.max_entries)
    for keys, values in addresses.raw_chunks():
        owned.add(keys, values)
    for indices, values in peers.chunks():
        for index, peer in zip(indices, values, strict=True):
            held = owned.of(index)
            if held or peer.tunnel_ifindex:
                yield index, _entry(peer, held)


class _Owned:
    """Index → addresses, in little memory: all that an index owns hangs together from `_last` on."""

    def __init__(self, capacity: int) -> None:
        self._last = array("I", bytes(4 * capacity))  # place + 1 of an index's last address; 0: none
        self._before = array("I")  # place + 1 of the one before
        self._addresses = bytearray()

    def add(self, keys: bytes, values: bytes) -> None:
        last, before = self._last, self._before
        self._addresses += keys
        for index in memoryview(values).cast("I"):
            if index < len(last):
                before.append(last[index])
                last[index] = len(before)
            else:
                before.append(0)  # nobody's: packets from it are dropped, whoever wrote that

    def of(self, index: int) -> list[InnerAddress]:
        found = []
        place = self._last[index]
        while place:
            found.append(InnerAddress(self._addresses[16 * place - 16 : 16 * place]))
            place = self._before[place - 1]
        return found


def find(addresses: Map, wanted: Iterable[InnerAddress]) -> dict[InnerAddress, int]:
    """Address → index of its owner, of those that have one."""
    return {address: index.value for address in wanted if (index := addresses.lookup(bytes(address))) is not None}


def observe_some(addresses: Map, peers: Map, wanted: Iterable[InnerAddress]) -> dict[int, Entry]:
    """Index → entry, of the peers that own these addresses; all of their addresses must be among them."""
    owned: dict[int, list[InnerAddress]] = defaultdict(list)
    for address, index in find(addresses, wanted).items():
        owned[index].append(address)
    return {index: _entry(peers.lookup(index), held) for index, held in owned.items()}


def apply(
    addresses: Map,
    peers: Map,
    steps: Sequence[EntryStep],
    known: Mapping[int, Sequence[InnerAddress]] | None = None,
    *,
    use_up: Callable[[Iterable[int]], None] = lambda _: None,
) -> None:
    """Carry out the steps. Raises KernelError; what was done before stays, and `observe` shows it.

    A new generation ends all bindings of an index at once. An entry keeps its generation when it stays the same
    peer: the same addresses and exit addresses. `known` says which addresses the indices in question own now; without
    it, all addresses are looked through. `use_up` is given the indices of all others, while they own no address.
    """
    if not steps:
        return
    touched = {step.index for step in steps}
    before = _peers(peers, touched)
    live = {index for index, peer in before.items() if peer.tunnel_ifindex}
    removed = {step.index for step in steps if isinstance(step, RemoveEntry)}
    owned = known if known is not None and known.keys() >= live else _owned(addresses, live | removed)
    final = {step.index: step.entry if isinstance(step, SetEntry) else None for step in steps}
    owner = {address: index for index, entry in final.items() if entry for address in entry.addresses}

    addresses.delete_many(a for index, held in owned.items() for a in held if owner.get(a) != index)
    kept = {
        index for index, entry in final.items() if _keeps(before[index], entry, owned.get(index, ()), index in removed)
    }
    use_up(touched - kept)
    peers.update_many((index, _written(index, before[index], entry, index in kept)) for index, entry in final.items())
    addresses.update_many(owner.items())


def _keeps(peer: Any, entry: Entry | None, held: Sequence[InnerAddress], removed: bool) -> bool:
    """Whether the entry is still the peer that it was."""
    return (
        entry is not None
        and not removed
        and bool(peer.tunnel_ifindex)
        and tuple(peer.exit_index) == entry.exit_index
        and sorted(held) == sorted(entry.addresses)
    )


def _written(index: int, peer: Any, entry: Entry | None, keeps: bool) -> Any:
    """`peer` as it shall stand in the map. Who stays the same peer has spent what it has spent."""
    fresh = type(peer)()
    fresh.generation = peer.generation if keeps else (peer.generation + 1) & 0xFFFFFFFF
    if entry is not None:
        fresh.tunnel_ifindex, fresh.next_ifindex = entry.tunnel_ifindex, entry.next_ifindex
        fresh.exit_index[:] = entry.exit_index
        fresh.rate_up, fresh.rate_down = entry.rate.up, entry.rate.down
        fresh.statistics = index + 1 if entry.statistics else 0
        if keeps:
            fresh.up, fresh.down = peer.up, peer.down
            if peer.seen_ifindex in (entry.tunnel_ifindex, entry.next_ifindex):
                fresh.seen_ifindex = peer.seen_ifindex  # where the data path saw it last
    return fresh


def _entry(peer: Any, held: Sequence[InnerAddress]) -> Entry:
    return Entry(
        addresses=tuple(sorted(held)),
        tunnel_ifindex=peer.tunnel_ifindex,
        exit_index=(peer.exit_index[0], peer.exit_index[1]),
        rate=Rate(up=peer.rate_up, down=peer.rate_down),
        next_ifindex=peer.next_ifindex,
        statistics=bool(peer.statistics),
    )


def _owned(addresses: Map, indices: AbstractSet[int] | None = None) -> Mapping[int, Sequence[InnerAddress]]:
    """Index → the addresses it owns, of these indices or of all."""
    if indices is not None and not indices:
        return {}
    owned: dict[int, list[InnerAddress]] = defaultdict(list)
    for keys, values in addresses.chunks():
        raw = bytes(keys)
        for place, index in _places(values, indices):
            owned[index].append(InnerAddress(raw[16 * place : 16 * place + 16]))
    return dict(owned)


def _places(values: Any, indices: AbstractSet[int] | None) -> Iterator[tuple[int, int]]:
    """Where in an array of 32-bit numbers these are, and which."""
    if indices is None:
        yield from enumerate(values)
        return
    numbers = array("I", bytes(values))
    if len(indices) >= _FEW:
        yield from ((place, index) for place, index in enumerate(numbers) if index in indices)
        return
    for index in indices:
        place = -1
        for _ in range(numbers.count(index)):
            place = numbers.index(index, place + 1)
            yield place, index


def _peers(peers: Map, indices: AbstractSet[int]) -> dict[int, Any]:
    if len(indices) < max(_FEW, peers.info.max_entries // _ONE_LOOKUP):
        return {index: peers.lookup(index) or peers.value() for index in indices}
    return {
        index: value
        for keys, values in peers.chunks()
        for index, value in zip(keys, values, strict=True)
        if index in indices
    }
