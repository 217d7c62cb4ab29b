"""`python -m bench.naive_exporter --port N INTERFACE`: the ordinary exporter of WireGuard, a rival.

At each scrape it asks wg(8) for everything that the interface holds and renders four series of each peer, with its
public key and endpoint. Loopback only; ends when its standard input closes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_LABELS = ("interface", "public_key", "allowed_ips", "endpoint")


class Peers(Collector):
    """What `wg show INTERFACE dump` says, peer by peer."""

    def __init__(self, interface: str) -> None:
        self._interface = interface

    def collect(self) -> Iterator[Metric]:
        """Four series for each peer."""
        received = CounterMetricFamily("wireguard_received_bytes", "From the peer.", labels=_LABELS)
        sent = CounterMetricFamily("wireguard_sent_bytes", "To the peer.", labels=_LABELS)
        handshake = GaugeMetricFamily("wireguard_latest_handshake_seconds", "Unix time; 0: never.", labels=_LABELS)
        keepalive = GaugeMetricFamily("wireguard_persistent_keepalive_seconds", "0: off.", labels=_LABELS)
        dump = subprocess.run(["wg", "show", self._interface, "dump"], capture_output=True, check=True).stdout
        for line in dump.decode("ascii").splitlines()[1:]:
            key, _, endpoint, allowed_ips, at, down, up, interval = line.split("\t")
            labels = (self._interface, key, allowed_ips, endpoint)
            received.add_metric(labels, float(down))
            sent.add_metric(labels, float(up))
            handshake.add_metric(labels, float(at))
            keepalive.add_metric(labels, 0.0 if interval == "off" else float(interval))
        return iter((received, sent, handshake, keepalive))

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not scrape."""
        return iter(())


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until standard input closes."""
    parser = argparse.ArgumentParser(prog="bench.naive_exporter", description="a rival: every peer a few series")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("interface")
    options = parser.parse_args(arguments)
    registry = CollectorRegistry()
    registry.register(Peers(options.interface))
    start_http_server(options.port, addr="127.0.0.1", registry=registry)
    print("ready", flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
