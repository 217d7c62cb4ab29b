"""The exporter, `python -m jetplane.metrics.exporter`: holds the bytes of the last release and nothing else.

It reads its certificate, binds, opens the release directory, gives up every right, has its system calls filtered, and
only then serves. A request is answered with bytes that were made before it came. There is no request log.

asyncio rather than http.server: there a slow client holds a thread, and no deadline covers a whole request. A protocol
rather than streams: they take turns in the loop for what can be done at once, a quarter of a scrape.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from jetplane.errors import JetplaneError
from jetplane.metrics import privileges, seccomp, tls
from jetplane.metrics.answers import TOO_LARGE, Release

CONNECTIONS = 32
HEADER_BYTES = 8192
DEADLINE_S = 5.0
"""A connection, from its first byte to the last of the answer."""
LOOK_S = 0.5
"""How often the exporter looks for a new release."""
_END = b"\r\n\r\n"


class Server:
    """Answers on a bound socket until it is told to stop."""

    def __init__(self, release: Release, directory: int, context: ssl.SSLContext | None = None) -> None:
        self._release = release
        self._directory = directory
        self._context = context
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self, listening: socket.socket, *, lifeline: bool) -> None:
        """Serve for ever, or until standard input closes; says when it does. Raises RequirementError before it."""
        stop = asyncio.Event()
        if lifeline:
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
        listening.setblocking(False)
        self._listen(listening)
        seccomp.confine()
        if lifeline:
            print("ready", flush=True)
        while not stop.is_set():
            self._release.refresh(self._directory)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)
        asyncio.get_running_loop().remove_reader(listening)

    def _listen(self, listening: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        """A connection counts from its first byte, so that one without a handshake has no place of its own."""
        loop = asyncio.get_running_loop()
        try:
            connected, _ = listening.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor is left, or the client has gone again
            loop.remove_reader(listening)
            loop.call_later(LOOK_S, self._listen, listening)
            return
        if len(self._connections) >= CONNECTIONS:
            connected.close()
            return
        connected.setblocking(False)
        rest = None if self._context else self._at_once(connected)
        if rest == b"":
            connected.close()
            return
        task = asyncio.create_task(self._connection(connected, rest))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    def _at_once(self, connected: socket.socket) -> bytes | None:
        """What of the answer is left to send, if the request came with its connection; else None, and nothing is read.

        A scrape is a request that fits into a packet: it needs no turn of the event loop, each of which the next one
        would wait for.
        """
        try:
            request = connected.recv(HEADER_BYTES, socket.MSG_PEEK)
            answer = _answer(self._release, request)
            if answer is None:
                return None
            connected.recv(len(request))
            return answer[connected.send(answer) :]
        except OSError:
            return None  # nothing is there yet; or nobody, which the event loop finds out again

    async def _connection(self, connected: socket.socket, rest: bytes | None) -> None:
        loop = asyncio.get_running_loop()
        exchange = _Exchange(self._release, over=loop.create_future(), rest=rest)
        transport: asyncio.BaseTransport | None = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                transport, _ = await loop.connect_accepted_socket(lambda: exchange, connected, ssl=self._context)
                await exchange.over
        except (TimeoutError, OSError):
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()  # without one, there was no handshake and asyncio has closed the connection


def _answer(release: Release, received: bytes) -> bytes | None:
    """The answer to what has come of a request so far; None while its head is not whole."""
    end = received.find(_END)
    if end > HEADER_BYTES or (end < 0 and len(received) > HEADER_BYTES):
        return TOO_LARGE
    return release.answer(received[: end + len(_END)]) if end >= 0 else None


class _Exchange(asyncio.Protocol):
    """One request and its answer, or the rest of one; what comes after the request's head is not read."""

    def __init__(self, release: Release, over: asyncio.Future[None], rest: bytes | None) -> None:
        self.over = over
        self._rest = rest
        self._release = release
        self._head = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._rest is not None:
            self._finish(self._rest)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._head += data
        if (answer := _answer(self._release, bytes(self._head))) is not None:
            self._finish(answer)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if not self.over.done():
            self.over.set_result(None)

    def _finish(self, answer: bytes) -> None:
        assert self._transport is not None
        self._transport.write(answer)
        self._transport.close()  # when the last byte has gone


def listen(address: str, port: int) -> socket.socket:
    """A bound TCP socket. Raises JetplaneError when the address or the port cannot be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address, port))
        bound.listen(CONNECTIONS)
    except OSError as error:
        bound.close()
        raise JetplaneError(
            f"metrics: cannot listen on {address} port {port}: {error.strerror}",
            hint="change metrics.listen or metrics.port, or stop what holds the port",
        ) from None
    return bound


def main(arguments: Sequence[str] | None = None) -> int:
    """Bind, drop, serve. One line on standard error and status 1 when that is not possible."""
    parser = argparse.ArgumentParser(
        prog="jetplane-exporter", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument("--directory", type=Path, required=True, help="where the releases are published")
    parser.add_argument("--listen", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", default="nobody", help="account to run as")
    parser.add_argument(
        "--tls", type=Path, nargs=3, metavar=("CERT", "KEY", "CLIENT_CA"), help="files in PEM; without them plain HTTP"
    )
    parser.add_argument("--lifeline", action="store_true", help="say when ready, end when standard input closes")
    options = parser.parse_args(arguments)
    try:
        context = tls.server_context(tls.Files(*options.tls)) if options.tls else None
        uid, gid = privileges.account(options.user)
        bound = listen(options.listen, options.port)
        directory = _open_directory(options.directory)
        privileges.drop(uid, gid, open_files=CONNECTIONS + 32)
        release = Release()
        release.refresh(directory)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        gc.freeze()  # whoever waits for a scrape need not wait for a walk through all modules
        asyncio.run(Server(release, directory, context).run(bound, lifeline=options.lifeline))
    except JetplaneError as error:
        print(f"{error}{f' ({error.hint})' if error.hint else ''}", file=sys.stderr)
        return 1
    return 0


def _open_directory(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise JetplaneError(f"metrics: {path}: cannot be opened: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
