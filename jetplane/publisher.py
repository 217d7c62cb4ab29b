"""Hands what may be told to the metrics side: plain numbers only, nothing of one peer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from jetplane import abi, network
from jetplane.config import Config, Metrics
from jetplane.dataplane.programs import PROGRAMS
from jetplane.metrics import process, publish, tls, utilisation
from jetplane.metrics.figures import Figures, Planning, Utilisation
from jetplane.metrics.render import render
from jetplane.node import Node
from jetplane.status import Status

SUPER_PACKET = 65_536  # bytes; one may overdraw a bucket


class Publisher:
    """Renders each release and keeps the exporter running."""

    def __init__(self, config: Config) -> None:
        self._settings = config.metrics
        self._directory = config.run_directory / "metrics"
        self._exporter: process.Exporter | None = None
        self._tls = _tls_files(config.metrics)
        self._follow(config)

    def _follow(self, config: Config) -> None:
        """Begin again with these plans: what proves how many peers stand behind a figure is their highest rate."""
        self._plans = config.plan
        self._directions = {"up": _Direction(config, "up"), "down": _Direction(config, "down")}

    def start(self) -> None:
        """Start the exporter, unless the configuration has it off. Raises JetplaneError."""
        if self._settings.enabled:
            settings = self._settings
            self._exporter = process.start(self._directory, settings.listen, settings.port, settings.user, self._tls)

    def stop(self) -> None:
        """End the exporter."""
        if self._exporter:
            self._exporter.stop()
            self._exporter = None

    def publish(self, node: Node, state: Status, errors: Mapping[str, int], planning: Planning | None = None) -> None:
        """Release the figures of this moment; start the exporter again if it has ended or has a new certificate."""
        if self._settings.enabled:
            if node.config.plan != self._plans:
                self._follow(node.config)
            publish.publish(self._directory, render(self._figures(node, state, errors, planning)))
            if self._exporter and self._exporter.is_outdated():
                self.stop()
            if self._exporter is None or not self._exporter.running():
                self.start()

    def _figures(self, node: Node, state: Status, errors: Mapping[str, int], planning: Planning | None) -> Figures:
        attachments = node.dataplane.attachments()
        programs = {program.name: True for program in PROGRAMS if program.hook}  # one without a place here lacks none
        for attachment in attachments:
            programs[attachment.program] &= attachment.present
        totals = node.dataplane.counters()
        return Figures(
            version=state.version,
            configuration_generation=state.generation,
            ready=state.ready and all(programs.values()),
            in_sync=all(t.wanted == t.observed for t in state.tunnels) and not state.problems,
            wireguard_backend=state.wireguard,
            peers_configured=sum(tunnel.wanted for tunnel in state.tunnels),
            source_ok=state.source_ok,
            records_refused=state.refused,
            programs_attached=programs,
            map_capacities=node.dataplane.capacities(),
            invariants_ok={
                "fail_closed_rules": network.fails_closed(node.config),
                "leak_guard": programs.get("leak_guard", False),
                "pins_private": node.dataplane.pins_are_private(),
            },
            reconcile_errors=errors,
            utilisation={
                "up": self._directions["up"].tell(totals["OUT_BYTES"] - totals["OBJECTED_OUT_BYTES"]),
                "down": self._directions["down"].tell(totals["IN_BYTES"] - totals["OBJECTED_IN_BYTES"]),
            },
            planning=planning,
        )


def _tls_files(metrics: Metrics) -> tls.Files | None:
    """The configuration has all three or none."""
    if not metrics.tls_cert_file:
        return None
    return tls.Files(Path(metrics.tls_cert_file), Path(metrics.tls_key_file), Path(metrics.tls_client_ca_file))


class _Direction:
    """One direction's utilisation, told only as far as 50 peers must stand behind it."""

    def __init__(self, config: Config, name: str) -> None:
        rates = [getattr(plan.rate, name) for plan in config.plan.values()]
        highest = 0 if 0 in rates else max(rates, default=0)
        ahead = highest * abi.constants()["BURST_NS"] // 1_000_000_000
        self._ladder = utilisation.ladder(
            capacity=config.uplink.capacity_mbit * 125_000, peer_rate=highest, peer_burst=ahead + SUPER_PACKET
        )
        self._meter: utilisation.Meter | None = None

    def tell(self, total: int) -> Utilisation | None:
        """The figure to release, given the exact total of bytes so far, which itself is never released."""
        if self._ladder is None:
            return None
        now = time.monotonic()
        if self._meter is None:
            self._meter = utilisation.start(self._ladder, total, now, secrets.randbelow)
        self._meter = utilisation.advance(self._ladder, self._meter, total, now, secrets.randbelow)
        return utilisation.published(self._ladder, self._meter)
