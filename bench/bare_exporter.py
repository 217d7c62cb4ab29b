"""`python -m bench.bare_exporter --port N --like M`: what a scrape costs at the least on this machine.

It takes one answer from the exporter at port M, and gives the same bytes to whoever connects to port N: it accepts,
reads once, sends, closes, one after the other, and looks at nothing. Loopback only; ends when it is killed.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence

REQUEST = (
    b"GET /metrics HTTP/1.1\r\nHost: node\r\nUser-Agent: Prometheus/2.42.0\r\n"
    b"Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n\r\n"
)


def ask(port: int, seconds: float) -> bytes:
    """One scrape: the whole answer, head and body. Raises OSError."""
    with socket.create_connection(("127.0.0.1", port), seconds) as client:
        client.sendall(REQUEST)
        parts = []
        while part := client.recv(1 << 20):
            parts.append(part)
    return b"".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve for ever; says `ready` when it does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--like", type=int, required=True)
    options = parser.parse_args(arguments)
    answer = ask(options.like, 60)
    with socket.create_server(("127.0.0.1", options.port)) as listening:
        print("ready", flush=True)
        while True:
            connected, _ = listening.accept()
            with connected:
                connected.recv(65536)
                connected.sendall(answer)


if __name__ == "__main__":
    main()
