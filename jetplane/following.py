"""The node's peers, kept as their source says, to the second of their expiry, less who was forgotten here."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from jetplane.alarm import Alarm
from jetplane.config import Config
from jetplane.errors import JetplaneError, PeerError
from jetplane.health import Health
from jetplane.model import Peer, PublicKey
from jetplane.node import Node
from jetplane.privacy import process
from jetplane.roster import Delta, Roster
from jetplane.sources.interface import Refusals, Source, refusals_problem
from jetplane.sources.tunnels import Tunnels

log = logging.getLogger("jetplane")


class Following:
    """Joins source, roster, alarm and node. `changed` is called when something was applied, `removed` when
    peers went with it, `retry` when it failed."""

    def __init__(
        self,
        node: Node,
        source: Source,
        alarm: Alarm,
        health: Health,
        own_keys: frozenset[PublicKey],
        *,
        changed: Callable[[], None],
        removed: Callable[[], None],
        retry: Callable[[], None],
    ) -> None:
        self._node, self._source, self._alarm, self._health = node, source, alarm, health
        self._own_keys = own_keys
        self._changed, self._removed, self._retry = changed, removed, retry
        self._roster = Roster(secrets.token_bytes(32))
        self._revision: int | None = None
        self._behind = True  # the node is not known to hold what is wanted: only a whole look helps
        self._counts: Counter[str] | None = None  # of the roster as it stands
        self.refused = Refusals()
        self.generation = 0

    @property
    def known(self) -> bool:
        """Whether the source has said who is wanted; until then the node keeps what it has."""
        return self._revision is not None

    def peers(self) -> Iterator[tuple[Peer, str]]:
        """The wanted peers, each with the name of its tunnel."""
        return self._placed(self._roster.wanted.values())

    def restricted(self) -> Iterator[tuple[Peer, str]]:
        """The same of those whose records are kept while no traffic of them may be processed."""
        return self._placed(self._roster.restricted)

    def _placed(self, peers: Iterable[Peer]) -> Iterator[tuple[Peer, str]]:
        tunnels = Tunnels(self._node.config)
        return ((peer, tunnels.of(peer.allowed_ips)) for peer in peers)

    def objectors(self) -> Iterator[PublicKey]:
        """The wanted peers that are in no released figure."""
        return (key for key, peer in self._roster.wanted.items() if not peer.statistics)

    def count(self) -> Mapping[str, int]:
        """Tunnel → wanted peers."""
        tunnels = self._node.config.tunnel
        if len([tunnel for tunnel in tunnels if not tunnel.follows]) == 1:
            return dict.fromkeys((tunnel.name for tunnel in tunnels), len(self._roster.wanted))
        if self._counts is None:
            self._counts = Counter(name for _, name in self.peers())
        return {tunnel.name: self._counts[tunnel.follows or tunnel.name] for tunnel in tunnels}

    def take(self) -> None:
        """Take from the source what it has to say."""
        delta = self.learn()
        if self.known:
            self._apply(delta)

    def learn(self) -> Delta:
        """The same without touching the node; returns what follows for it."""
        change = self._source.take()
        if change is not None:
            self.refused, self._revision = change.refused, change.revision
        self.say()
        if change is None:
            return {}
        delta = self._roster.take(whole=change.whole, peers=change.peers, now=time.time())
        self._alarm.set(self._roster.due())
        self._counts = None
        return delta

    def ring(self) -> None:
        """The alarm has rung: somebody expires, or the clock was set, and who expires is judged anew."""
        self._alarm.take()
        delta = self._roster.expire(time.time())
        self._counts = None
        self._alarm.set(self._roster.due())
        if delta:
            self._apply(delta)
        self.take()

    def follow(self, config: Config, own_keys: frozenset[PublicKey]) -> None:
        """Judge by a changed configuration, and by the node's own public keys: no peer may have one of them."""
        self._own_keys = own_keys
        self._source.follow(config, own_keys)
        self._behind, self._counts = True, None
        self.learn()

    def reconcile(self, *, look: bool = False) -> None:
        """Bring the node in line as a whole; `look` first: it may hold what nobody remembers."""
        if not self.known:
            return

        def work() -> None:
            if look:
                self._node.observe()
            wanted: dict[str, dict[PublicKey, Peer]] = {tunnel.name: {} for tunnel in self._node.config.tunnel}
            for peer, name in self.peers():
                wanted[name][peer.public_key] = peer
            applied = self._node.reconcile(wanted)
            if applied.peer_steps or applied.entry_steps:
                self.generation += 1
                log.info("applied %d peer steps, %d data-plane steps", applied.peer_steps, applied.entry_steps)

        error = self._health.attempt("reconcile", work)
        process.give_back_what_is_free()  # a whole look leaves tens of megabytes
        self._settle(error)

    def forget(self, key: PublicKey) -> bool:
        """Cut a key off, end its bindings, and hold it back; whether its source has it. Raises JetplaneError.

        A source that has said nothing yet may have it: then the node is looked at, and only this peer touched.
        """
        delta, known = self._roster.forget(key, hold=not self.known)
        self._counts = None
        if self.known:
            error = self._apply(delta)
        else:
            known = True
            error = self._health.attempt("forget", lambda: self._node.cut_off(key))
        del delta
        error = error or self._health.attempt("sweep", self._node.dataplane.sweep)
        if error:
            raise JetplaneError(f"not cut off yet, tried again until it is: {error}", hint=error.hint)
        return known

    def _apply(self, delta: Delta) -> JetplaneError | None:
        if self._behind:
            self.reconcile(look=True)
            return None if not self._behind else JetplaneError(self._health.stands("reconcile"))

        def work() -> None:
            if not delta:
                return
            applied = self._node.apply_change(delta)
            if applied.peer_steps or applied.entry_steps:
                self.generation += 1
                log.info("applied %d peer steps, %d data-plane steps", applied.peer_steps, applied.entry_steps)

        error = self._health.attempt("reconcile", work)
        self._settle(error)
        if None in delta.values():
            self._removed()
        return error

    def _settle(self, error: JetplaneError | None) -> None:
        self._behind = error is not None
        if error:
            self._retry()
        elif self._revision is not None:
            self._source.applied(self._revision)
        self._changed()

    def say(self) -> None:
        """Show what the source lacks, and what of it is refused."""
        for work, problem in (("source", self._source.problem()), ("peers", refusals_problem(self.refused))):
            if problem == self._health.stands(work):
                continue
            if not problem:
                self._health.succeeded(work)
                log.info("%s: well again", work)
            elif self._health.failed(work, PeerError(problem)):
                log.warning("%s: %s", work, problem)
