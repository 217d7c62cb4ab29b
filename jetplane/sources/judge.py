"""Which records are in force, record by record: a pure function of all of them and of the configuration.

Records have a rank: their place in the files, or their revision. Where two claim the same key or address, the lower
rank has it; when it goes, the next one gets it. So every node that sees the same records decides the same, whatever
order they came in. A change costs what it touches, not what there is.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from jetplane.config import Config
from jetplane.errors import PeerError
from jetplane.model import InnerAddress, Peer, PublicKey
from jetplane.sources.interface import SHOWN, Refusal, RefusalKind, Refusals
from jetplane.sources.records import also_owned, rates, unknown_plan
from jetplane.sources.tunnels import Tunnels

Rank = Any
"""An int or a tuple: anything that is ordered. No two records of a judge have the same."""
_Claim = PublicKey | InnerAddress


class Reading(NamedTuple):
    """A record as it was read: a peer and the plan that it names, or why it is none."""

    peer: Peer | None
    plan: str | None = None
    reason: str = ""

    def __repr__(self) -> str:
        return "Reading(hidden)"


class _Held(NamedTuple):
    rank: Rank
    peer: Peer | None
    plan: str | None
    reason: str

    @property
    def claims(self) -> tuple[_Claim, ...]:
        return (self.peer.public_key, *self.peer.allowed_ips) if self.peer else ()


class Judge:
    """Holds every record of a source under its slot, which is what the source replaces and removes it by.

    `place` names a rank for people.
    """

    def __init__(self, config: Config, own_keys: frozenset[PublicKey], place: Callable[[Rank], str]) -> None:
        self._place = place
        self._terms = _Terms(config, own_keys)
        self._held: dict[Hashable, _Held] = {}
        self._refused: dict[Hashable, tuple[RefusalKind, str]] = {}  # by their own fault, or by an earlier claim
        self._full: set[Hashable] = set()  # would be in force if there were room; their claims stand
        self._owner: dict[_Claim, Hashable] = {}  # of those who claim it: the one that has it, if one has
        self._others: dict[_Claim, set[Hashable]] = {}  # all the rest, where there are any
        self._undecided: set[Hashable] = set()
        self._before: dict[PublicKey, Peer | None] = {}  # what was in force when `settle` last returned
        self._told: Refusals | None = None

    def __len__(self) -> int:
        return len(self._held)

    def ranks(self) -> Iterator[tuple[Hashable, Rank]]:
        """Every slot that is held, in force or not, and its rank."""
        return ((slot, held.rank) for slot, held in self._held.items())

    def rank(self, slot: Hashable) -> Rank | None:
        """The rank of what a slot holds."""
        held = self._held.get(slot)
        return None if held is None else held.rank

    def put(self, slot: Hashable, rank: Rank, reading: Reading) -> None:
        """Take a record in, in place of what stood in its slot."""
        held = self._held.get(slot)
        if held != (rank, *reading):
            self._put(slot, rank, reading)

    def drop(self, slot: Hashable) -> None:
        """Let go of a slot, if there is one."""
        held = self._held.get(slot)
        if held is None:
            return
        self._note(held)
        for claim in held.claims:
            self._release(claim, slot)
        del self._held[slot]
        self._refused.pop(slot, None)
        self._full.discard(slot)
        self._undecided.discard(slot)

    def settle(self) -> dict[PublicKey, Peer | None]:
        """Decide what is undecided and return what changed since the last time; None: gone."""
        undecided = [(self._held[slot].rank, slot) for slot in self._undecided]
        self._undecided.clear()
        heapq.heapify(undecided)
        while undecided:  # from the lowest rank up: what is decided once stays so
            _, slot = heapq.heappop(undecided)
            for other in self._decide(slot):
                heapq.heappush(undecided, (self._held[other].rank, other))
        self._keep_to_capacity()
        before, self._before = self._before, {}
        after = {key: self._in_force(key) for key in before}
        return {key: peer for key, peer in after.items() if peer != before[key]}

    def follow(self, config: Config, own_keys: frozenset[PublicKey]) -> None:
        """Judge everything again by other terms; `settle` tells what follows."""
        self._terms = _Terms(config, own_keys)
        for slot, held in list(self._held.items()):
            self._put(slot, held.rank, Reading(held.peer, held.plan, held.reason))

    def rename(self, name: Callable[[Any], Any]) -> None:
        """Give every slot another name and rank, the same for both. No two may have the same before or after."""
        held = list(self._held.items())
        for slot, _ in held:
            self.drop(slot)
        for slot, (_, peer, plan, reason) in held:
            self._put(name(slot), name(slot), Reading(peer, plan, reason))

    def in_force(self) -> dict[PublicKey, Peer]:
        """Everything that is in force."""
        out = self._refused.keys() | self._full
        return {held.peer.public_key: held.peer for slot, held in self._held.items() if held.peer and slot not in out}

    def refusals(self) -> Refusals:
        """Everything that is refused."""
        if self._told is None:
            told = self._refused | dict.fromkeys(self._full, ("full", f"more than peers.max = {self._terms.capacity}"))
            first = heapq.nsmallest(SHOWN, told, key=self._rank)
            self._told = Refusals(
                counts=Counter(kind for kind, _ in told.values()),
                first=tuple(Refusal(told[slot][0], self._place(self._rank(slot)), told[slot][1]) for slot in first),
            )
        return self._told

    def _put(self, slot: Hashable, rank: Rank, reading: Reading) -> None:
        self.drop(slot)
        problem = self._terms.refuse(reading)
        peer = reading.peer
        if peer and problem is None:
            peer = self._terms.apply(peer, reading.plan)
        self._held[slot] = held = _Held(rank, peer, reading.plan, reading.reason)
        self._refused[slot] = problem or ("duplicate", "")  # not in force before `settle` says so
        self._told = None
        if problem is None:
            for claim in held.claims:
                if self._owner.setdefault(claim, slot) != slot:
                    self._others.setdefault(claim, set()).add(slot)
            self._undecided.add(slot)

    def _decide(self, slot: Hashable) -> list[Hashable]:
        """Let a slot have its claims, or refuse it. Returns whom this puts in question; all of them rank behind it."""
        held = self._held[slot]
        self._note(held)
        rivals = {claim: owner for claim in held.claims if (owner := self._owner[claim]) != slot}
        for claim, owner in rivals.items():
            if owner not in self._refused and self._rank(owner) < held.rank:
                self._refused[slot] = ("duplicate", also_owned(claim, self._place(self._rank(owner))))
                return []
        questioned: list[Hashable] = []
        for claim, owner in rivals.items():
            if owner not in self._refused:
                self._note(self._held[owner])
                self._refused[owner] = ("duplicate", also_owned(claim, self._place(held.rank)))
                questioned += self._behind(owner)
            self._owner[claim] = slot
            self._others[claim].remove(slot)
            self._others[claim].add(owner)
        self._refused.pop(slot, None)
        return questioned

    def _behind(self, slot: Hashable) -> list[Hashable]:
        """Who waits for what this slot, just displaced, had."""
        held = self._held[slot]
        waiting = {other for claim in held.claims for other in self._others.get(claim, ())}
        return [other for other in waiting if self._rank(other) > held.rank]

    def _release(self, claim: _Claim, slot: Hashable) -> None:
        """Take a slot out of those who claim something; the others have to be decided anew."""
        others = self._others.get(claim, set())
        if self._owner.get(claim) != slot:
            others.discard(slot)
        elif others:
            self._undecided |= others
            self._owner[claim] = others.pop()
        else:
            del self._owner[claim]
        if not others:
            self._others.pop(claim, None)

    def _keep_to_capacity(self) -> None:
        """Hold back the highest ranks beyond peers.max. Sorts only while there are too many."""
        excess = len(self._held) - len(self._refused) - self._terms.capacity
        if excess <= 0 and not self._full:
            return
        fitting = (slot for slot in self._held if slot not in self._refused)
        full = set(heapq.nlargest(max(excess, 0), fitting, key=self._rank))
        for slot in full ^ self._full:
            self._note(self._held[slot])
        self._full = full

    def _note(self, held: _Held) -> None:
        """Remember, once a round, what was in force for a key that may change."""
        self._told = None
        if held.peer and held.peer.public_key not in self._before:
            self._before[held.peer.public_key] = self._in_force(held.peer.public_key)

    def _rank(self, slot: Hashable) -> Rank:
        return self._held[slot].rank

    def _in_force(self, key: PublicKey) -> Peer | None:
        slot = self._owner.get(key)
        return None if slot is None or slot in self._refused or slot in self._full else self._held[slot].peer


class _Terms:
    """What the configuration asks of a record by itself."""

    def __init__(self, config: Config, own_keys: frozenset[PublicKey]) -> None:
        self.capacity = config.peers.max
        self._rates = rates(config)
        self._tunnels = Tunnels(config)
        self._own_keys = own_keys

    def refuse(self, reading: Reading) -> tuple[RefusalKind, str] | None:
        """Why this record cannot be used, or None."""
        peer = reading.peer
        if peer is None:
            return "record", reading.reason
        if reading.plan not in self._rates:
            return "plan", unknown_plan(reading.plan, self._rates)
        if peer.public_key in self._own_keys:  # WireGuard would ignore it without a word
            return "own_key", "public_key: is the node's own"
        try:
            self._tunnels.of(peer.allowed_ips)
        except PeerError as error:
            return "address", str(error)
        return None

    def apply(self, peer: Peer, plan: str | None) -> Peer:
        """The peer with the rate that its plan has now."""
        rate = self._rates[plan]
        return peer if peer.rate == rate else replace(peer, rate=rate)


def difference(before: Mapping[PublicKey, Peer], after: Mapping[PublicKey, Peer]) -> dict[PublicKey, Peer | None]:
    """What turns one into the other; None: gone."""
    changed: dict[PublicKey, Peer | None] = dict.fromkeys(before.keys() - after.keys())
    return changed | {key: peer for key, peer in after.items() if before.get(key) != peer}
