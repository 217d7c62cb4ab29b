"""Maintenance: tunnels that take no new handshakes, and when the last of their sessions has ended.

WireGuard cannot refuse a handshake, so the guard drops its messages before WireGuard sees them; only data passes. Both
sides may use a session for 180 s after its handshake, so it ends by itself within that time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from jetplane.config import Config
from jetplane.dataplane.node import DataPlane
from jetplane.errors import ConfigurationError
from jetplane.sessions import Counts, Sessions

WATCH_S = 5.0
Later = Callable[[float, str, Callable[[], object]], None]
"""Schedule.once."""

log = logging.getLogger("jetplane")


class Drain:
    """Which tunnels drain. The kernel keeps it, so it outlives the controller; `jetplane down` ends it."""

    def __init__(self, sessions: Sessions, later: Later) -> None:
        self._sessions, self._later = sessions, later
        self._tunnels: frozenset[str] = frozenset()
        self._empty: frozenset[str] = frozenset()  # drained tunnels whose end has been told

    @property
    def tunnels(self) -> tuple[str, ...]:
        """The tunnels that drain now, sorted."""
        return tuple(sorted(self._tunnels))

    def resume(self, config: Config, dataplane: DataPlane) -> None:
        """Take over what an earlier controller had begun."""
        ports = dataplane.draining()
        self._tunnels = frozenset(t.name for t in config.tunnel if t.listen_port in ports)
        self.renew(config, dataplane)

    def renew(self, config: Config, dataplane: DataPlane) -> None:
        """Say it again to the data plane; a changed configuration may have other ports, or maps made anew."""
        self._tunnels &= {tunnel.name for tunnel in config.tunnel}
        dataplane.set_draining(t.listen_port for t in config.tunnel if t.name in self._tunnels)
        if self._tunnels:
            self._later(WATCH_S, "drain", self._watch)

    def begin(self, names: Iterable[str], config: Config, dataplane: DataPlane) -> None:
        """Take no handshakes on these tunnels; none named: on all. Raises ConfigurationError for an unknown one."""
        chosen = _chosen(names, config)
        for name in sorted(chosen - self._tunnels):
            log.info("%s: draining", name)
        self._empty -= chosen - self._tunnels
        self._tunnels |= chosen
        self.renew(config, dataplane)

    def end(self, names: Iterable[str], config: Config, dataplane: DataPlane) -> None:
        """Take handshakes again."""
        chosen = _chosen(names, config)
        for name in sorted(chosen & self._tunnels):
            log.info("%s: no longer draining", name)
        self._tunnels -= chosen
        self.renew(config, dataplane)

    def _watch(self) -> None:
        if self._tunnels - self._empty:
            self._sessions.ask(self._tunnels - self._empty, self._counted)

    def hear(self, counts: Counts) -> None:
        """Take note of who has gone, whoever has counted; tell it once."""
        over = {name for name in self._tunnels - self._empty if counts.get(name) == 0}
        for name in sorted(over):
            log.info("%s: drained, the last session has ended", name)
        self._empty |= over

    def _counted(self, counts: Counts) -> None:
        self.hear(counts)
        if self._tunnels - self._empty:
            self._later(WATCH_S, "drain", self._watch)


def _chosen(names: Iterable[str], config: Config) -> frozenset[str]:
    known = frozenset(tunnel.name for tunnel in config.tunnel)
    chosen = frozenset(names) or known
    if unknown := chosen - known:
        raise ConfigurationError(
            f"tunnel {min(unknown)!r}: there is none of this name", hint=f"there are {', '.join(sorted(known))}"
        )
    return chosen
