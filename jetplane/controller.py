"""The daemon: observe, plan, apply; again when something changes, and again when something failed.

The data plane needs none of this to go on: if the controller dies, traffic flows as it was last told to.
"""

from __future__ import annotations

import logging
import os
import random
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from jetplane import __version__, abi, network, report, status
from jetplane import config as configuration
from jetplane.admin import edit
from jetplane.admin.api import Api
from jetplane.admin.edits import Edits
from jetplane.admin.server import Server
from jetplane.alarm import Alarm
from jetplane.config import Config
from jetplane.drain import Drain
from jetplane.errors import ConfigurationError, JetplaneError
from jetplane.following import Following
from jetplane.health import Health
from jetplane.lock import controller_lock
from jetplane.metrics.figures import Planning
from jetplane.model import Peer, PublicKey
from jetplane.node import Node, take_down
from jetplane.publisher import Publisher
from jetplane.release import telling
from jetplane.release.keeper import Keeper
from jetplane.release.looks import Looks
from jetplane.schedule import Schedule
from jetplane.sessions import Sessions
from jetplane.sources import open_source
from jetplane.supervisor import notify, wakeups
from jetplane.wireguard.own import own_keys

VERIFY_S = 30.0  # compare links, programs and peers with what they should be
SWEEP_S = 10.0  # expire bindings
SWEEP_SOON_S = 0.5  # after peers were removed
EVICT_S, EVICT_MORE_S = 1.0, 0.02  # ask for idle peers; pause between batches of them
ADDRESSES_S = 5.0  # follow the uplink's addresses
PUBLISH_S = 15.0  # render metrics; class T changes at most once a minute
EPOCHS_S, LEAST_WAIT_S = 10.0, 0.01  # look at the epochs at least, and at most, so often
SOON_S = 0.1  # a burst of changes is published once
SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("jetplane")


class Controller:
    """Runs one node until SIGTERM or SIGINT. SIGHUP reads configuration and peers again."""

    def __init__(self, path: Path, config: Config) -> None:
        self._path = path
        self._config = config
        self._node = Node(config)
        self._health = Health()
        self._reloads = 0
        self._ready = False
        self._stopping = False
        self._schedule = Schedule()
        self._publisher = Publisher(config)
        self._selector = selectors.DefaultSelector()
        self._sessions = Sessions(self._selector, self._schedule.once, self._node.wireguard.kind)
        self._drain = Drain(self._sessions, self._schedule.once)
        self._keeper = Keeper(config, self._selector, self._schedule.once, self._health, self._publish_soon)
        self._looks = Looks(self._node.wireguard.kind, self._selector, self._looking_failed)

    def run(self) -> None:
        """Bring the node up and keep it so. Raises JetplaneError if it cannot even start.

        Signals are held from the first moment: who reads that the node is ready may send one at once.
        """
        with ExitStack() as stack:
            stack.enter_context(controller_lock(self._config.run_directory))
            signals = stack.enter_context(wakeups(*SIGNALS))
            stack.callback(self._selector.close)
            stack.callback(self._publisher.stop)
            stack.callback(self._sessions.close)
            stack.callback(self._looks.close)
            stack.callback(self._keeper.close)
            stack.callback(self._node.close)
            alarm = stack.enter_context(Alarm())
            keys = _own_keys(self._config)
            source = stack.enter_context(open_source(self._config, keys))
            self._following = Following(
                self._node,
                source,
                alarm,
                self._health,
                keys,
                changed=self._publish_soon,
                removed=self._sweep_soon,
                retry=self._verify_later,
            )
            _refuse_relays_to_itself(self._config, self._path)
            self._following.learn()
            self._bring_up_or_undo()
            self._drain.resume(self._config, self._node.dataplane)
            edits = Edits(self._selector, self._schedule.once)
            stack.callback(edits.close)
            api = Api(self, edits, self._path)
            stack.enter_context(Server(self._config.run_directory, self._selector, self._schedule.once, api.handle))
            self._verify()
            self._schedule.every(SWEEP_S, "sweep", self._sweep)
            self._schedule.every(abi.constants()["KNOWN_SOURCES_S"], "known sources", self._forget_sources)
            self._schedule.every(abi.constants()["OWN_PORTS_S"], "own ports", self._forget_own_ports)
            self._schedule.once(EVICT_S, "evict", self._evict)
            self._schedule.every(ADDRESSES_S, "addresses", self._refresh_addresses)
            self._schedule.every(PUBLISH_S, "publish", self._publish)
            if self._config.metrics.statistics:
                self._keep_epochs()
            self._watch(signals, lambda: self._on_signals(signals.recv(64)))
            self._watch(alarm, self._following.ring)
            self._watch(source, self._following.take)
            while not self._stopping:
                for key, _ in self._selector.select(self._schedule.run()):
                    key.data()
        log.info("stopped; the data plane goes on")

    def _watch(self, file: Any, work: Callable[[], None]) -> None:
        self._selector.register(file, selectors.EVENT_READ, work)

    def _bring_up_or_undo(self) -> None:
        """The first start changes everything or nothing; a restart leaves a running node running."""
        fresh = self._node.journal.is_empty()
        try:
            self._node.bring_up()
        except JetplaneError:
            if fresh:
                take_down(self._config)
            raise

    def _on_signals(self, numbers: bytes) -> None:
        if signal.SIGHUP in numbers:
            self._reload()
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            notify("STOPPING=1")
            self._stopping = True

    def _reload(self) -> JetplaneError | None:
        """Take a new configuration, or keep the old one; the peers follow from it record by record."""

        def work() -> None:
            config = configuration.load(self._path)
            _refuse_what_needs_a_restart(self._config, config)
            _refuse_relays_to_itself(config, self._path)
            try:
                self._node.reconfigure(config)
            except JetplaneError:
                self._node.reconfigure(self._config)
                raise
            finally:
                self._drain.renew(self._node.config, self._node.dataplane)
            self._config = config
            self._following.follow(config, _own_keys(config))
            self._reloads += 1
            log.info("configuration reloaded")

        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        error = self._health.attempt("configuration", work)
        notify("READY=1")
        self._verify()
        return error

    def _verify(self) -> None:
        """Look at everything, repair what is not as it should be, and look again later."""

        def work() -> None:
            self._node.bring_up()
            self._node.observe()

        if not self._health.attempt("verify", work):
            self._health.attempt("blocklists", self._refresh_source_lists)
            self._following.reconcile()
            self._become_ready()
        self._verify_later()

    def _verify_later(self) -> None:
        """In its time; sooner when it, or bringing the peers in line, has failed."""
        waits = [self._health.wait(work, random.random()) for work in ("verify", "reconcile")]
        self._schedule.once(max(waits) or VERIFY_S, "verify", self._verify)

    def _become_ready(self) -> None:
        """Ready is who carries traffic as far as is known: a source that is away does not stop a node."""
        if not self._ready and not self._health.stands("reconcile"):
            self._ready = True
            self._publish()
            notify("READY=1")
            log.info("ready")

    def _refresh_source_lists(self) -> None:
        if self._node.dataplane.refresh_source_lists():
            log.info("source lists loaded")

    def _forget_sources(self) -> None:
        self._health.attempt("known sources", self._node.dataplane.forget_sources)

    def _forget_own_ports(self) -> None:
        self._health.attempt("own ports", self._node.dataplane.forget_own_ports)

    def _sweep(self) -> None:
        self._health.attempt("sweep", self._node.dataplane.sweep)

    def _sweep_soon(self) -> None:
        """The flows of a peer that was removed are dead at once; this takes them out of memory, too."""
        self._schedule.once(SWEEP_SOON_S, "sweep soon", self._sweep)

    def _evict(self) -> None:
        """Make WireGuard forget idle peers, a batch at a time, with everything else in between."""
        more = False

        def work() -> None:
            nonlocal more
            more = self._node.evict()

        if self._health.attempt("evict", work):
            self._verify()  # some may be removed and not added again
        wait = self._health.wait("evict", random.random()) or (EVICT_MORE_S if more else EVICT_S)
        self._schedule.once(wait, "evict", self._evict)

    def _refresh_addresses(self) -> None:
        self._health.attempt("addresses", self._node.refresh_addresses)
        self._health.attempt("neighbours", self._node.keep_neighbours)

    def _keep_epochs(self) -> None:
        """Turn epochs at their time, and look at handshakes in each of their slots."""
        waits = [EPOCHS_S]

        def work() -> None:
            statistics = self._node.dataplane.statistics
            waits.append(self._keeper.look(statistics))
            opening = self._keeper.running("volume")
            if opening is not None:
                names = [tunnel.name for tunnel in self._config.tunnel]
                waits.append(self._looks.follow(opening, names, self._objectors, self._enter_handshakes))

        self._health.attempt("epochs", work)
        self._schedule.once(max(min(waits), LEAST_WAIT_S), "epochs", self._keep_epochs)

    def _objectors(self) -> bytes:
        return b"".join(self._following.objectors())

    def _enter_handshakes(self, number: int, slot: int, peers: int) -> None:
        """A look that comes after its epoch is none."""

        def work() -> None:
            statistics = self._node.dataplane.statistics
            if statistics.number("volume") == number:
                statistics.add_handshakes(number, slot, peers)

        self._health.attempt("handshakes", work)

    def _looking_failed(self, error: JetplaneError) -> None:
        if self._health.failed("handshakes", error):
            log.error("handshakes: %s", error)

    def _publish_soon(self) -> None:
        if self._ready:
            self._schedule.once(SOON_S, "publish soon", self._publish)

    def _publish(self) -> None:
        self._following.say()
        told = telling.planning(self._config, self._keeper.skipped)
        state = self._status(told)
        self._health.attempt("status", lambda: status.write(self._config.run_directory, state))
        self._health.attempt("metrics", lambda: self._publisher.publish(self._node, state, self._health.errors, told))
        notify("WATCHDOG=1")

    def _status(self, told: Planning | None) -> status.Status:
        return status.Status(
            version=__version__,
            pid=os.getpid(),
            ready=self._ready,
            wireguard=self._node.wireguard.kind,
            transport=self._config.transport,
            generation=self._following.generation + self._reloads,
            tunnels=self._tunnels(),
            errors=dict(self._health.errors),
            problems=self._health.problems(),
            draining=self._drain.tunnels,
            source=self._config.peers.source,
            source_ok=not self._health.stands("source"),
            refused=dict(self._following.refused.counts.items()),
            refused_first=tuple(map(str, self._following.refused.first)),
            privacy=telling.privacy_status(self._config, told),
        )

    def _tunnels(self) -> tuple[status.TunnelStatus, ...]:
        wanted = self._following.count()
        return tuple(
            status.TunnelStatus(t.name, t.listen_port, wanted.get(t.name, 0), self._node.peers_observed(t.name))
            for t in self._config.tunnel
        )

    # What the admin API asks for (admin.api.Control).

    def report(self) -> Mapping[str, Any]:
        """The state of the node, as `jetplane status --json` prints it."""
        told = telling.planning(self._config, self._keeper.skipped)
        return report.of(self._status(told), running=True, dataplane=self._node.dataplane).as_json()

    def reload(self) -> Mapping[str, Any]:
        """Take configuration and peers anew, or raise why not."""
        error = self._reload()
        if error:
            raise error
        return {"generation": self._following.generation + self._reloads}

    def drain(self, tunnels: Iterable[str]) -> None:
        """Take no new handshakes on these tunnels."""
        self._drain.begin(tunnels, self._config, self._node.dataplane)
        self._publish()

    def undrain(self, tunnels: Iterable[str]) -> None:
        """Take handshakes again."""
        self._drain.end(tunnels, self._config, self._node.dataplane)
        self._publish()

    def sessions(self, answer: Callable[[Mapping[str, Any]], None]) -> None:
        """Count the sessions of every tunnel: numbers, nobody's name."""

        def tell(counts: Mapping[str, int | None]) -> None:
            self._drain.hear(counts)
            answer({"draining": list(self._drain.tunnels), "sessions": dict(counts)})

        self._sessions.ask((tunnel.name for tunnel in self._config.tunnel), tell)

    def forget(self, public_key: PublicKey) -> bool:
        """Cut a key off and hold it back; whether its source has it."""
        return self._following.forget(public_key)

    def peers(self) -> Iterator[tuple[Peer, str]]:
        """The peers that are wanted now, and those that are restricted, each with its tunnel."""
        return chain(self._following.peers(), self._following.restricted())

    def take_peers(self) -> None:
        """Take from the source what it has now."""
        self._following.take()

    def refuse_unless_files(self) -> None:
        """Raise PeerError when peers do not come from files of this node."""
        edit.refuse_unless_files(self._config)


def _own_keys(config: Config) -> frozenset[PublicKey]:
    return own_keys(tunnel.private_key_file for tunnel in config.tunnel)


def _refuse_what_needs_a_restart(old: Config, new: Config) -> None:
    for key in ("run_directory", "transport", "wireguard", "uplink", "metrics", "peers", "nats"):
        if getattr(old, key) != getattr(new, key):
            raise ConfigurationError(
                f"{key}: cannot change while the node runs; the old configuration stays",
                hint="restart the controller: traffic goes on meanwhile",
            )


def _refuse_relays_to_itself(config: Config, path: Path) -> None:
    for index, target in enumerate(config.relay.to):
        if interface := network.owner(target.endpoint.host):
            expected = f"another node; this is an address of {interface} here"
            raise configuration.refused(path, f"relay.to[{index}].exit", target.exit, expected)
