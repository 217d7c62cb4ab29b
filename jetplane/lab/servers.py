"""The lab's internet: real servers on every site address, which remember who came.

    python -m jetplane.lab.servers --record SOCKET ADDRESS...

HTTP on port 80: /bytes/N the first N bytes of a fixed pseudo-random stream, /paced/R the same stream for
ever at R bytes a second, /whoami the address and port the site sees. Echo on port 7, UDP and TCP (RFC 862).
Whoever connects to the Unix socket SOCKET is told as JSON which source addresses came to which service.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import hashlib
import http.server
import json
import socket
import socketserver
import threading
import time
from pathlib import Path

HTTP_PORT = 80
ECHO_PORT = 7
_PACE_S = 0.02
_LEAST_PIECE = 4096  # few packets, for machines where each costs much


@functools.cache
def content(size: int) -> bytes:
    """The first `size` bytes of the stream every site serves: SHAKE-128 of a fixed word."""
    return hashlib.shake_128(b"jetplane").digest(size)


@functools.cache
def digest(size: int) -> str:
    """SHA-256 of `content(size)`, in hexadecimal."""
    return hashlib.sha256(content(size)).hexdigest()


class Visitors:
    """Who came: (service, site address, source address) → how often. Shared by all servers' threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: collections.Counter[tuple[str, str, str]] = collections.Counter()

    def came(self, service: str, site: str, source: str) -> None:
        """Count one request, datagram or connection."""
        with self._lock:
            self._seen[service, site, source] += 1

    def report(self) -> list[dict[str, str | int]]:
        """Return one object for each (service, site, source)."""
        with self._lock:
            return [
                {"service": service, "site": site, "source": source, "count": count}
                for (service, site, source), count in sorted(self._seen.items())
            ]


class _Site(socketserver.ThreadingTCPServer):
    """A TCP service at one site address, with the visitors' book at hand."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, address: str, port: int, handler: type[socketserver.BaseRequestHandler], visitors: Visitors
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.site = address
        self.visitors = visitors
        super().__init__((address, port), handler)


class _Http(http.server.BaseHTTPRequestHandler):
    server: _Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one of the three kinds of path."""
        self.server.visitors.came("http", self.server.site, self.client_address[0])
        kind, _, number = self.path.strip("/").partition("/")
        with contextlib.suppress(ConnectionError, TimeoutError):  # a visitor may leave at any time
            match kind:
                case "bytes" if number.isdigit():
                    self._answer(content(int(number)))
                case "paced" if number.isdigit():
                    self._pace(int(number))
                case "whoami":
                    self._answer(json.dumps(self.client_address[:2]).encode())
                case _:
                    self.send_error(404)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _pace(self, bytes_per_second: int) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        piece = content(max(_LEAST_PIECE, int(bytes_per_second * _PACE_S)))
        due = time.monotonic()
        while True:
            self.wfile.write(piece)
            due += len(piece) / bytes_per_second
            time.sleep(max(0.0, due - time.monotonic()))

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep quiet: nobody reads it."""


class _TcpEcho(socketserver.BaseRequestHandler):
    server: _Site

    def handle(self) -> None:
        """Send everything back until the visitor closes."""
        self.server.visitors.came("tcp-echo", self.server.site, self.client_address[0])
        with contextlib.suppress(ConnectionError, TimeoutError):
            while received := self.request.recv(65536):
                self.request.sendall(received)


def _udp_echo(address: str, visitors: Visitors) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((address, ECHO_PORT))
        while True:
            received, visitor = server.recvfrom(65536)
            visitors.came("udp-echo", address, visitor[0])
            with contextlib.suppress(OSError):  # an ICMP error about an earlier answer
                server.sendto(received, visitor)


def _tell(path: Path, visitors: Visitors) -> None:
    """Tell everybody who connects who came; the socket appears only when all servers listen."""
    fresh = path.with_suffix(".new")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(fresh))
        listener.listen()
        fresh.rename(path)
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(json.dumps(visitors.report()).encode())


def ask(path: Path) -> list[dict[str, str | int]]:
    """Return what the servers behind the Unix socket `path` remember."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    report: list[dict[str, str | int]] = json.loads(answer)
    return report


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m jetplane.lab.servers")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("addresses", nargs="+")
    options = parser.parse_args()
    visitors = Visitors()
    for address in options.addresses:
        for site in (
            _Site(address, HTTP_PORT, _Http, visitors),
            _Site(address, ECHO_PORT, _TcpEcho, visitors),
        ):
            threading.Thread(target=site.serve_forever, daemon=True).start()
        threading.Thread(target=_udp_echo, args=(address, visitors), daemon=True).start()
    _tell(options.record, visitors)


if __name__ == "__main__":
    main()
