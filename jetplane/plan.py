"""The pure middle: from what is wanted and what is observed to the steps between them.

Two laws hold and are tested: applying a plan makes the next plan empty, and no address is ever owned by two peers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from jetplane import abi
from jetplane.errors import PeerError
from jetplane.indices import FreeIndices
from jetplane.model import InnerAddress, Observed, ObservedPeer, Peer, PresharedKey, PublicKey, Rate, Wanted


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Cut a peer off: its session, its endpoint and its allowed IPs go with it."""

    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class SetPeer:
    """Create a peer or bring it in line; its allowed IPs are replaced as a whole, its session stays."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class MoveAddresses:
    """Give a peer that is there addresses that another has now; WireGuard moves each from one to the other at once."""

    public_key: PublicKey
    addresses: tuple[InnerAddress, ...]


@dataclass(frozen=True, slots=True)
class DiscardEndpoint:
    """Overwrite from where a peer was last seen with an address that leads nowhere; without the peer, do nothing."""

    public_key: PublicKey


PeerStep = RemovePeer | SetPeer | MoveAddresses | DiscardEndpoint

NO_PRESHARED_KEY = PresharedKey(bytes(32))
"""What WireGuard takes as "none": 32 zero bytes (wg(8))."""


def plan_peers(wanted: Wanted, observed: Observed, applied: Wanted) -> tuple[PeerStep, ...]:
    """Return the steps that turn a tunnel's `observed` peers into the `wanted` ones.

    Removals first: a revoked peer is cut off even if a later step fails. Then addresses move between peers that stay,
    so that none is without an owner from one step to the next. `applied` is what this process asked for last time;
    it tells whether a preshared key, which is never read back, has changed.

    For a change of some peers all three may be restricted to these: nothing else is looked at.
    """
    removals = [RemovePeer(key) for key in observed if key not in wanted]
    new: list[SetPeer] = []
    changes: list[SetPeer] = []
    for key, peer in wanted.items():
        seen = observed.get(key)
        if seen is None:
            new.append(SetPeer(peer))
        elif (step := _change(peer, seen, applied)) is not None:
            changes.append(SetPeer(step))
    # A new peer takes its addresses from their owners as it is made; one that is there takes them before anything
    # is replaced, also when two exchange theirs.
    lost = lost_addresses((step.peer for step in changes), observed)
    moves = [
        MoveAddresses(step.peer.public_key, gained)
        for step in changes
        if lost and (gained := tuple(a for a in step.peer.allowed_ips if a in lost))
    ]
    return (*removals, *new, *moves, *changes)


def lost_addresses(changes: Iterable[Peer], observed: Observed) -> frozenset[InnerAddress]:
    """The addresses that these peers have now and will not keep."""
    return frozenset(
        address
        for peer in changes
        if (seen := observed.get(peer.public_key)) is not None
        for address in set(seen.allowed_ips).difference(peer.allowed_ips)
    )


def changing_hands(steps: Iterable[PeerStep], observed: Observed) -> frozenset[InnerAddress]:
    """The addresses whose peer these steps remove, or take them from: what they carried must end."""
    removed = (seen for s in steps if isinstance(s, RemovePeer) and (seen := observed.get(s.public_key)))
    kept = (s.peer for s in steps if isinstance(s, SetPeer))
    return lost_addresses(kept, observed).union(*(seen.allowed_ips for seen in removed))


def _change(peer: Peer, seen: ObservedPeer, applied: Wanted) -> Peer | None:
    """The peer to set, or None when WireGuard already holds it so."""
    if peer.preshared_key is None and seen.has_preshared_key:
        return replace(peer, preshared_key=NO_PRESHARED_KEY)
    known = applied.get(peer.public_key)
    same_secret = peer.preshared_key is None or (known is not None and known.preshared_key == peer.preshared_key)
    same = (
        same_secret
        and set(seen.allowed_ips) == set(peer.allowed_ips)
        and seen.persistent_keepalive == peer.persistent_keepalive
    )
    return None if same else peer


def plan_eviction(
    idle: Sequence[PublicKey], wanted: Wanted, spared: AbstractSet[PublicKey] = frozenset()
) -> tuple[PeerStep, ...]:
    """Return the steps that make WireGuard forget the sessions of `idle` peers; those that are wanted stay peers.

    Every endpoint goes first, since a removal costs a hundred times as much. A peer is added again right after its
    removal, so that nobody is refused meanwhile. Of `spared` peers only the endpoint goes: they could not be added.
    """
    steps: list[PeerStep] = [DiscardEndpoint(key) for key in idle]
    for key in idle:
        if key not in spared:
            steps.append(RemovePeer(key))
            if key in wanted:
                steps.append(SetPeer(wanted[key]))
    return tuple(steps)


@dataclass(frozen=True, slots=True)
class Entry:
    """A peer as the data plane holds it: by address, never by key."""

    addresses: tuple[InnerAddress, ...]  # sorted
    tunnel_ifindex: int
    exit_index: tuple[int, int]  # IPv4, IPv6; abi NO_EXIT for none
    rate: Rate = field(default_factory=Rate)
    next_ifindex: int = 0  # where the peer may be as well, while the node's key changes
    statistics: bool = True  # False: nothing of its traffic counts in what is released

    def __repr__(self) -> str:
        return "Entry(hidden)"


@dataclass(frozen=True, slots=True)
class RemoveEntry:
    """End everything the peer at this index has: addresses, bindings, blocks."""

    index: int


@dataclass(frozen=True, slots=True)
class SetEntry:
    """Create or change the peer at this index. A change of addresses or exit ends its bindings."""

    index: int
    entry: Entry


EntryStep = RemoveEntry | SetEntry


@dataclass(frozen=True, slots=True)
class EntryPlan:
    """What to do in the data plane: first what ends, then, when WireGuard has followed, what is given out."""

    ends: Mapping[int, tuple[InnerAddress, ...]]  # index → the addresses it owns
    gives: Iterator[SetEntry]  # to be consumed once; made one by one, as 100,000 would fill the memory
    count: int  # steps in all
    free: FreeIndices  # what is free once all of it has been done

    def __repr__(self) -> str:
        return f"EntryPlan({self.count} steps)"


def plan_entries(
    wanted: Mapping[InnerAddress, Entry],
    observed: Iterable[tuple[int, Entry]],
    capacity: int,
    changing: AbstractSet[InnerAddress] = frozenset(),
) -> EntryPlan:
    """Return what turns the data plane's `observed` entries into the `wanted` ones, which are found by their first
    address.

    An entry is recognised by its addresses and keeps its index and its exit addresses as long as it lives, so a
    restart or a new secret moves no live flow. It ends when one of its addresses is `changing` hands: its flows
    are not the new owner's. A new entry takes an index that has been free longest, so that what its last holder
    left behind has been swept. Raises PeerError when `capacity` (MAX_PEERS) does not hold all that is wanted.
    """
    used = bytearray(capacity)

    def noted() -> Iterator[tuple[int, Entry]]:
        for index, entry in observed:
            used[index] = 1
            yield index, entry

    ends, changes, new = _compare(wanted, noted(), changing)
    return _entry_plan(wanted, ends, changes, new, FreeIndices(used))


def plan_some_entries(
    wanted: Mapping[InnerAddress, Entry],
    observed: Iterable[tuple[int, Entry]],
    free: FreeIndices,
    changing: AbstractSet[InnerAddress] = frozenset(),
) -> EntryPlan:
    """The same for a change of some peers, of whom `observed` are the entries. `free` is used up."""
    return _entry_plan(wanted, *_compare(wanted, observed, changing), free)


_Compared = tuple[dict[int, tuple[InnerAddress, ...]], list[SetEntry], list[InnerAddress]]


def _compare(
    wanted: Mapping[InnerAddress, Entry], observed: Iterable[tuple[int, Entry]], changing: AbstractSet[InnerAddress]
) -> _Compared:
    """What ends, what stays at its index and changes, and the first addresses of what is new."""
    ends: dict[int, tuple[InnerAddress, ...]] = {}
    changes: list[SetEntry] = []
    placed: set[InnerAddress] = set()
    for index, seen in observed:
        entry = wanted.get(seen.addresses[0]) if seen.addresses else None
        if entry is None or entry.addresses != seen.addresses or not changing.isdisjoint(seen.addresses):
            ends[index] = seen.addresses
            continue
        placed.add(entry.addresses[0])
        if entry != seen and (settled := _settled(entry, seen)) != seen:
            changes.append(SetEntry(index, settled))
    return ends, changes, [first for first in wanted if first not in placed]


def _entry_plan(
    wanted: Mapping[InnerAddress, Entry],
    ends: dict[int, tuple[InnerAddress, ...]],
    changes: list[SetEntry],
    new: list[InnerAddress],
    free: FreeIndices,
) -> EntryPlan:
    for index in ends:
        free.give(index)
    if len(new) > len(free):
        raise PeerError(f"peers: {len(new)} more than before, and room for {len(free)}", hint="raise peers.max")

    def gives() -> Iterator[SetEntry]:
        yield from changes
        for first in new:
            yield SetEntry(free.take(), wanted[first])

    return EntryPlan(ends, gives(), len(ends) + len(changes) + len(new), free)


def _settled(entry: Entry, seen: Entry) -> Entry:
    """`entry` with the exit addresses it already has, where it still may have one of that family."""
    return replace(entry, exit_index=seen.exit_index) if _same_families(entry, seen) else entry


def _same_families(one: Entry, other: Entry) -> bool:
    limit = abi.constants()["NO_EXIT"]
    return all((a == limit) == (b == limit) for a, b in zip(one.exit_index, other.exit_index, strict=True))


def choose_exit(public_key: PublicKey, secret: bytes, indices: Sequence[int]) -> int | None:
    """Choose one of `indices` for a peer by a keyed hash; None when there is none to choose from.

    The secret is this node's own and changes, so the choice links no user across nodes or over time.
    """
    if len(indices) < 2:
        return indices[0] if indices else None
    digest = hashlib.blake2b(public_key, key=secret, digest_size=8).digest()
    return indices[int.from_bytes(digest) % len(indices)]
