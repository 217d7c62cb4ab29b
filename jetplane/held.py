"""What a node holds, as the controller remembers it, so that a change of one peer needs no look at all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from jetplane.model import ObservedPeer, Peer, PublicKey


class Held(Mapping[PublicKey, ObservedPeer]):
    """The peers of one WireGuard interface: those that were set, and how what was observed differs from that.

    Says what `plan_peers` wants to know, and keeps no second copy of anything: a node may have 100,000 peers.
    """

    def __init__(self, peers: Mapping[PublicKey, Peer] | None = None) -> None:
        self.peers: dict[PublicKey, Peer] = dict(peers or {})
        self._drift: dict[PublicKey, ObservedPeer | None] = {}  # None: is not there

    @classmethod
    def adopted(cls, observed: Iterable[ObservedPeer], wanted: Mapping[PublicKey, Peer]) -> Held:
        """What another process has set. Where that is what is wanted anyway, no copy is kept.

        A preshared key is never read back: who should have one is remembered as observed, and set again.
        """
        held = cls()
        for seen in observed:
            peer = wanted.get(seen.public_key)
            if peer is not None and peer.preshared_key is None and _same(_as_observed(peer), seen):
                held.peers[peer.public_key] = peer
            else:
                held._drift[seen.public_key] = seen
        return held

    @property
    def as_set(self) -> bool:
        """Whether nothing else was observed than what was set."""
        return not self._drift

    def compare(self, observed: Iterable[ObservedPeer]) -> None:
        """Take what WireGuard was seen to hold; only differences are remembered."""
        self._drift = {}
        missing = set(self.peers)
        for seen in observed:
            missing.discard(seen.public_key)
            peer = self.peers.get(seen.public_key)
            if peer is None or not _same(_as_observed(peer), seen):
                self._drift[seen.public_key] = seen
        self._drift.update(dict.fromkeys(missing))

    def change(self, peers: Mapping[PublicKey, Peer | None]) -> None:
        """Follow what has been carried out. None: removed."""
        for key, peer in peers.items():
            self._drift.pop(key, None)
            if peer is None:
                self.peers.pop(key, None)
            else:
                self.peers[key] = peer

    def __getitem__(self, key: PublicKey) -> ObservedPeer:
        if key in self._drift:
            seen = self._drift[key]
            if seen is None:
                raise KeyError
            return seen
        return _as_observed(self.peers[key])

    def __iter__(self) -> Iterator[PublicKey]:
        for key in self.peers:
            if key not in self._drift:
                yield key
        for key, seen in self._drift.items():
            if seen is not None:
                yield key

    def __len__(self) -> int:
        return len(self.peers) + sum((seen is not None) - (key in self.peers) for key, seen in self._drift.items())

    def __repr__(self) -> str:
        return "Held(hidden)"


def _as_observed(peer: Peer) -> ObservedPeer:
    secret = peer.preshared_key
    return ObservedPeer(
        peer.public_key, peer.allowed_ips, peer.persistent_keepalive, secret is not None and any(secret)
    )


def _same(one: ObservedPeer, other: ObservedPeer) -> bool:
    return (
        one.persistent_keepalive == other.persistent_keepalive
        and one.has_preshared_key == other.has_preshared_key
        and (one.allowed_ips == other.allowed_ips or set(one.allowed_ips) == set(other.allowed_ips))
    )
