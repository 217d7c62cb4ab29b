"""Serves the API from the controller's own loop: no threads, and nobody who connects can make the loop wait.

One request a connection. Sizes, numbers and times are bounded; a client that is late is cut off.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import struct
import time
import traceback
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self

import h11

from jetplane.admin.messages import Answer, Refused, Reply, Request, error_answer
from jetplane.admin.place import FILE, reachable
from jetplane.errors import JetplaneError

MAX_BODY: Final = 4 << 20  # bytes
MAX_HEADERS: Final = 16 << 10
MAX_CLIENTS: Final = 16
READ_S: Final = 5.0  # from the connection to the end of the request
WRITE_S: Final = 30.0  # from the answer to its last byte
TICK_S: Final = 1.0
_CHUNK: Final = 1 << 16
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))

log = logging.getLogger("jetplane")

Handle = Callable[[Request, Reply], None]
Later = Callable[[float, str, Callable[[], object]], None]
"""Schedule.once."""


class Server:
    """Listens on `directory/admin.sock`, mode 0600. Raises JetplaneError when it cannot."""

    def __init__(
        self,
        directory: Path,
        selector: selectors.BaseSelector,
        later: Later,
        handle: Handle,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = directory / FILE
        self._selector, self._later, self._handle, self._clock = selector, later, handle, clock
        self._clients: set[_Client] = set()
        self._socket = _listen(directory)
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.unregister(self._socket)
        self._socket.close()
        self._path.unlink(missing_ok=True)
        for client in list(self._clients):
            client.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return  # the client has gone, or there is no descriptor left: it stays in the queue
        connection.setblocking(False)
        if len(self._clients) >= MAX_CLIENTS:
            connection.close()
            return
        client = _Client(connection, self._selector, self._handle, self._clock, self._clients.discard)
        self._clients.add(client)
        self._later(TICK_S, "admin", self._tick)

    def _tick(self) -> None:
        for client in list(self._clients):
            client.expire()
        if self._clients:
            self._later(TICK_S, "admin", self._tick)


class _Client:
    """One connection: it is read, then waits for its answer, then is written."""

    def __init__(
        self,
        connection: socket.socket,
        selector: selectors.BaseSelector,
        handle: Handle,
        clock: Callable[[], float],
        closed: Callable[[_Client], None],
    ) -> None:
        self._socket, self._selector, self._handle = connection, selector, handle
        self._clock, self._closed = clock, closed
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADERS)
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._out = memoryview(b"")
        self._deadline: float | None = clock() + READ_S
        self._watching = True
        selector.register(connection, selectors.EVENT_READ, self._read)

    def close(self) -> None:
        """Hang up."""
        self._unwatch()
        self._socket.close()
        self._closed(self)

    def expire(self) -> None:
        """Hang up on who is late; while the node itself works on the answer, nobody is."""
        if self._deadline is not None and self._clock() > self._deadline:
            self.close()

    def _unwatch(self) -> None:
        if self._watching:
            self._selector.unregister(self._socket)
            self._watching = False

    def _read(self) -> None:
        try:
            self._http.receive_data(self._socket.recv(_CHUNK))
            self._take_events()
        except BlockingIOError:
            return
        except OSError:
            self.close()
        except h11.RemoteProtocolError:
            gone = self._http.trailing_data[1] and self._head is None and not self._http.trailing_data[0]
            if gone:
                self.close()
            else:
                self._refuse(HTTPStatus.BAD_REQUEST, "bad_http", "the request is not HTTP/1.1, or is cut short")
        except Refused as error:
            self._answer(error_answer(error))

    def _take_events(self) -> None:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                return
            if isinstance(event, h11.Request):
                self._head = event
                self._admit(event)
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > MAX_BODY:
                    raise _too_large()
            elif isinstance(event, h11.EndOfMessage):
                self._dispatch()
                return
            else:  # the client has hung up without a request
                self.close()
                return

    def _admit(self, head: h11.Request) -> None:
        """What can be refused before the body has come."""
        uid = _CREDENTIALS.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
        if uid != 0:
            raise Refused(HTTPStatus.FORBIDDEN, "not_root", "only root may ask", hint="run as root")
        length = next((int(value) for name, value in head.headers if name == b"content-length"), 0)
        if length > MAX_BODY:
            raise _too_large()
        if self._http.they_are_waiting_for_100_continue:
            self._socket.send(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")

    def _dispatch(self) -> None:
        assert self._head is not None
        self._unwatch()
        self._deadline = None
        request = Request(self._head.method.decode(), self._head.target.decode("ascii", "replace"), bytes(self._body))
        self._body = bytearray()
        try:
            self._handle(request, self._answer)
        except JetplaneError as error:
            self._answer(error_answer(error))
        except Exception as error:  # whatever a client sends, the node goes on; the message might quote it
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"unforeseen {type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
            log.error("admin: %s; please report it", what)
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "unforeseen", what)

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> None:
        self._answer(error_answer(Refused(status, code, message)))

    def _answer(self, answer: Answer) -> None:
        if self._socket.fileno() < 0:
            return
        body = answer.encoded()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        try:
            head = self._http.send(h11.Response(status_code=answer.status, headers=[*headers, *answer.headers]))
            # Not through h11 piece by piece: the body is as long as the header says.
            self._out = memoryview((head or b"") + body)
        except h11.LocalProtocolError:
            self.close()  # what came cannot be answered in HTTP
            return
        self._deadline = self._clock() + WRITE_S
        self._unwatch()
        self._selector.register(self._socket, selectors.EVENT_WRITE, self._write)
        self._watching = True

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._out[:_CHUNK])
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._out = self._out[sent:]
        if not self._out:
            self.close()


def _too_large() -> Refused:
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", f"the request is longer than {MAX_BODY >> 20} MiB")


def _listen(directory: Path) -> socket.socket:
    """Who calls this holds the controller's lock, so a socket that is there already is a dead one's."""
    (directory / FILE).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        with reachable(directory) as address:
            listener.bind(address)
        listener.listen(MAX_CLIENTS)
    except OSError as error:
        listener.close()
        raise JetplaneError(f"{directory / FILE}: cannot listen: {error.strerror}") from None
    finally:
        os.umask(before)
    return listener
