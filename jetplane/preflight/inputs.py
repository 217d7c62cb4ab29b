"""Judges what the configuration names: ports, key files, peers, the exporter's place."""

from __future__ import annotations

from collections.abc import Iterator

from jetplane.config import Config
from jetplane.metrics import noise
from jetplane.preflight.facts import Check, Facts, Judgement
from jetplane.release import terms

PEER_RECORDS = "peer records"
"""A failed check that stops no start: the node runs, and refuses these records one by one."""


def _listen_ports(config: Config, facts: Facts) -> Iterator[Check]:
    for tunnel in config.tunnel:
        yield from facts.answered("listen port", facts.listen_ports.get(tunnel.name))


def _private_keys(config: Config, facts: Facts) -> Iterator[Check]:
    for tunnel in config.tunnel:
        yield from facts.answered("private key", facts.private_keys.get(tunnel.name))


def _peers(_: Config, facts: Facts) -> Iterator[Check]:
    yield from facts.answered("peers", facts.peers)
    yield from facts.answered(PEER_RECORDS, facts.peer_records)


def _guard(config: Config, facts: Facts) -> Iterator[Check]:
    yield from facts.answered("blocklists", facts.blocklists)
    if config.guard.observe:
        yield Check(
            "guard", "warn", "only observes: it counts and drops nothing", "set guard.observe = false to be protected"
        )


def _resolver(config: Config, facts: Facts) -> Iterator[Check]:
    if not config.dns.service:
        return
    if facts.silent_resolvers:
        hint = "start the node's resolver there (it may have to wait for the address): else subscribers get no names"
        yield Check("resolver", "warn", f"nobody listens at port 53 of {', '.join(facts.silent_resolvers)}", hint)
    else:
        yield Check("resolver", True, f"listens at {', '.join(config.dns.addresses)}")


def _metrics(config: Config, facts: Facts) -> Iterator[Check]:
    yield from facts.answered("metrics port", facts.metrics_port)
    yield from facts.answered("metrics user", facts.metrics_user)
    yield from facts.answered("metrics TLS", facts.metrics_tls)
    if not config.metrics.statistics:
        return
    cost = f"planning figures: epsilon {terms.epsilon(config):.3g} at delta {noise.DELTA:g} of a peer's UTC day"
    if terms.keeps_the_promise(config):
        yield Check("privacy budget", True, cost)
    else:
        hint = "remove metrics.active_epoch and metrics.volume_epoch, unless this is a lab"
        yield Check("privacy budget", "warn", f"{cost}, and {noise.EPSILON:g} is promised", hint)


CHECKS: tuple[Judgement, ...] = (_listen_ports, _private_keys, _peers, _guard, _resolver, _metrics)
