"""Asks exporters for their metrics: the node's own twice, and every other listener of this namespace once."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Iterator, Sequence

from jetplane.audit.limits import Limits
from jetplane.audit.listeners import Listener
from jetplane.config import Config
from jetplane.metrics.manifest import manifest
from jetplane.metrics.publish import OPENMETRICS, TEXT
from jetplane.privacy.facts import Metric, Release, Scrape

_MOST_BYTES = 4 << 20
_MOST_LISTENERS = 32
_FORMATS = {TEXT: b"text/plain", OPENMETRICS: b"application/openmetrics-text"}
_BYTES_OF = re.compile(rb'^(?P<name>\w*(?:bytes|octets)\w*)\{[^}]*"(?P<interface>[\w.-]{1,15})"', re.MULTILINE)
_KEYED = re.compile(rb'^(?P<name>\w+)\{[^}]*"[A-Za-z0-9+/]{43}="', re.MULTILINE)


def gather(config: Config, listening: Sequence[Listener], limits: Limits) -> Release:
    """Ask them."""
    allowed = {
        metric.name: Metric(metric.label.key, metric.label.allows) if metric.label else Metric("", lambda _: False)
        for metric in manifest().values()
    }
    scrapes, trouble = _own(config, limits) if config.metrics.enabled else ((), "")
    others = [one for one in listening if one.port != config.metrics.port][:_MOST_LISTENERS]
    names = {config.uplink.interface, *(tunnel.name for tunnel in config.tunnel)}
    return Release(
        manifest=allowed,
        scrapes=scrapes,
        trouble=trouble,
        enabled=config.metrics.enabled,
        listeners=len(others),
        co_exporters=tuple(_told(others, names, limits)),
    )


def _own(config: Config, limits: Limits) -> tuple[tuple[Scrape, ...], str]:
    """Both formats, and why there is none."""
    scrapes, settings = [], config.metrics
    for file, accept in _FORMATS.items():
        path = config.run_directory / "metrics" / file
        try:
            before = path.read_bytes()
            if settings.tls_cert_file:
                scrapes.append(
                    Scrape(f"{file}, read as a file: TLS asks for a client's certificate", before, before, False)
                )
                continue
            first, second = (_get(settings.listen, settings.port, accept, limits.scrape_s) for _ in range(2))
            after = path.read_bytes()
        except OSError as error:
            return (), f"the exporter gives no answer: {error.strerror or type(error).__name__}"
        scrapes.append(Scrape(file, first, second, changed=before != after))
    return tuple(scrapes), ""


def _get(address: str, port: int, accept: bytes, seconds: float) -> bytes:
    """The body of /metrics, within so many seconds. Raises OSError."""
    deadline = time.monotonic() + seconds
    answer = bytearray()
    with socket.create_connection((address, port), seconds) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\nHost: node\r\nAccept: %s\r\n\r\n" % accept)
        while len(answer) < _MOST_BYTES:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = connection.recv(65536)
            if not part:
                break
            answer += part
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise ConnectionError("no metrics")
    return body


def _told(others: Iterable[Listener], names: set[str], limits: Limits) -> Iterator[str]:
    """What other exporters tell of the node's interfaces, or of single peers."""
    for one in others:
        try:
            body = _get(one.reachable_at, one.port, b"text/plain", limits.scrape_s / 2)
        except OSError:
            continue
        for found in sorted({(m["name"].decode(), m["interface"].decode()) for m in _BYTES_OF.finditer(body)}):
            if found[1] in names:
                yield f"port {one.port}: {found[0]} of {found[1]}"
        for name in sorted({m["name"].decode() for m in _KEYED.finditer(body)}):
            yield f"port {one.port}: {name} has a series of each key"
