"""Who is wanted at this moment: what the source says, less who is restricted, has expired or was forgotten here. Pure.

Every method returns what follows for the node: public key → peer to set, or None for one to cut off.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from jetplane.model import Peer, PublicKey

Delta = Mapping[PublicKey, Peer | None]
"""What differs from before. None: cut off."""


class Roster:
    """Times are Unix seconds; `secret` keys the hashes of forgotten keys, so that holding one back names nobody."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._wanted: dict[PublicKey, Peer] = {}
        self._aside: dict[PublicKey, Peer] = {}  # restricted or expired; a clock that is set back returns the latter
        self._due: list[tuple[int, PublicKey]] = []  # a heap; an entry may be out of date
        self._held: set[bytes] = set()

    @property
    def wanted(self) -> Mapping[PublicKey, Peer]:
        """All peers that the node should hold."""
        return MappingProxyType(self._wanted)

    @property
    def restricted(self) -> Iterator[Peer]:
        """The peers whose records are kept while no traffic of them may be processed."""
        return (peer for peer in self._aside.values() if peer.restricted)

    @property
    def held(self) -> int:
        """How many forgotten keys are being held back."""
        return len(self._held)

    def take(self, *, whole: bool, peers: Delta, now: float) -> Delta:
        """Follow the source: all that it has (`whole`), or what it says anew.

        A forgotten key is held back until the source names it again in a part, or no longer has it in a whole.
        """
        if whole:
            self._held &= {self._hash(key) for key in peers} if self._held else set()
            said: dict[PublicKey, Peer | None] = {
                key: None if self._is_held(key) else peer for key, peer in peers.items()
            }
            gone = (self._wanted.keys() | self._aside.keys()) - said.keys()
            return self._settle({**dict.fromkeys(gone), **said}, now)
        if self._held:
            self._held -= {self._hash(key) for key in peers}
        return self._settle(peers, now)

    def expire(self, now: float) -> Delta:
        """Take out who has expired, and put back whom a clock that was ahead had taken out too early."""
        changed: dict[PublicKey, Peer | None] = {}
        while (at := self.due()) is not None and at <= now:
            _, key = heapq.heappop(self._due)
            self._aside[key] = self._wanted.pop(key)
            changed[key] = None
        back = [peer for peer in self._aside.values() if not _is_out(peer, now)]
        for peer in back:
            changed[peer.public_key] = peer
            self._put(peer)
        return changed

    def due(self) -> int | None:
        """When the next peer expires; None when none will."""
        while self._due:
            at, key = self._due[0]
            peer = self._wanted.get(key)
            if peer is not None and peer.expires_at == at:
                return at
            heapq.heappop(self._due)
        return None

    def forget(self, key: PublicKey, *, hold: bool = False) -> tuple[Delta, bool]:
        """Cut a key off and hold it back. The second value says whether the source had it.

        `hold`: also if it had not, since it has said nothing yet.
        """
        known = self._aside.pop(key, None) is not None
        if self._wanted.pop(key, None) is not None:
            known = True
            self._due = [entry for entry in self._due if entry[1] != key]  # no heap entry keeps the key alive
            heapq.heapify(self._due)
        if known or hold:
            self._held.add(self._hash(key))
        return {PublicKey(key): None}, known

    def _settle(self, said: Delta, now: float) -> Delta:
        changed: dict[PublicKey, Peer | None] = {}
        for key, peer in said.items():
            before = self._wanted.get(key)
            self._aside.pop(key, None)
            if peer is None or _is_out(peer, now):
                self._wanted.pop(key, None)
                if peer is not None:
                    self._aside[key] = peer
                if before is not None:
                    changed[key] = None
            elif peer != before:
                self._put(peer)
                changed[key] = peer
        return changed

    def _put(self, peer: Peer) -> None:
        self._aside.pop(peer.public_key, None)
        self._wanted[peer.public_key] = peer
        if peer.expires_at is not None:
            heapq.heappush(self._due, (peer.expires_at, peer.public_key))

    def _is_held(self, key: PublicKey) -> bool:
        return bool(self._held) and self._hash(key) in self._held

    def _hash(self, key: PublicKey) -> bytes:
        return hashlib.blake2b(key, key=self._secret, digest_size=16).digest()


def _is_out(peer: Peer, now: float) -> bool:
    return peer.restricted or (peer.expires_at is not None and peer.expires_at <= now)
