"""What an outsider, or the node itself, tries in the demo."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from jetplane.lab import capture, namespaces
from jetplane.lab.addresses import UPLINK
from jetplane.lab.stage import SITES, Stage
from jetplane.lab.waiting import patience, slowness, wait_until


def knock(stage: Stage, target: str, port: int) -> str:
    """Try a TCP connection from the internet; return `timeout`, `connected` or what the error says."""
    with _outsider(stage, target, socket.SOCK_STREAM) as client:
        client.settimeout(0.3 * slowness())
        try:
            client.connect((target, port))
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return os.strerror(error.errno or 0)
        return "connected"


def send_datagrams(stage: Stage, target: tuple[str, int], payloads: Iterable[bytes]) -> None:
    """Send UDP datagrams from the internet."""
    with _outsider(stage, target[0], socket.SOCK_DGRAM) as client:
        for payload in payloads:
            client.sendto(payload, target)


def _outsider(stage: Stage, target: str, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    return namespaces.inside(stage.lab.plan.internet, lambda: socket.socket(family, kind))


def send_from_node(stage: Stage, source: str, *, past_guards: bool) -> None:
    """Put one UDP packet with this source on the uplink; `past_guards` skips the traffic-control hooks."""
    frame = capture.udp_frame(stage.lab.plan.node, UPLINK, source, SITES[4])
    capture.send_frame(stage.lab.plan.node, UPLINK, frame, past_guards=past_guards)


def scrape(stage: Stage) -> str:
    """Return what /metrics says inside the node's namespace, once there is a release."""
    found: list[str] = []

    def fetch() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", stage.lab.options.metrics_port, timeout=patience(5))
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            if answer.status == http.HTTPStatus.OK:
                found.append(answer.read().decode())
        except ConnectionRefusedError:
            pass  # not yet
        finally:
            connection.close()
        return bool(found)

    wait_until("/metrics", lambda: namespaces.inside(stage.lab.plan.node, fetch))
    return found[0]


def series(text: str) -> frozenset[str]:
    """The series of an exposition: names with their labels, without values."""
    return frozenset(line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#"))


def tcp_listeners(namespace: str) -> set[str]:
    """Addresses on which something in the namespace listens (proc(5): state 0A, address in host order words)."""

    def look() -> set[str]:
        found = set()
        for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
            for line in Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]:
                local, state = line.split()[1], line.split()[3]
                if state == "0A":
                    raw = bytes.fromhex(local.partition(":")[0])
                    words = [raw[at : at + 4][::-1] for at in range(0, len(raw), 4)]
                    found.add(socket.inet_ntop(family, b"".join(words)))
        return found

    return namespaces.inside(namespace, look)
