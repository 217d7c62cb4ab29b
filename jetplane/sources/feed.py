"""The thread that keeps a connection to NATS, session after session, and the queues that it fills."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jetplane import backoff
from jetplane.config import Nats
from jetplane.sources.replica import Entry, Replica
from jetplane.sources.session import Session
from jetplane.sources.sink import Lost, Position

WAITING = 20_000  # records that may wait; more have to wait on the server
STACK = 1 << 20  # bytes: the controller's memory is locked, and a thread's usual 8 MiB would be resident
STOP_S = 10.0

Event = tuple[Any, ...]
"""A method of Replica and its arguments. What they say is decided by who takes them, not here."""


class Feed:
    """`wake` is called, in the thread, when there is something to take or the problem is another one."""

    def __init__(self, settings: Nats, wake: Callable[[], None]) -> None:
        self._settings, self._wake = settings, wake
        self.watched: deque[Event] = deque()  # every change; to be taken first
        self.compared: deque[Event] = deque()  # what comparisons bring
        self.problem = "not connected yet"
        self.unacknowledged = ""  # why the last acknowledgement could not be written
        self._payload: bytes | None = None
        self._connected = False
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._news = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="nats", daemon=True)

    def start(self) -> None:
        """Begin."""
        before = threading.stack_size(STACK)
        try:
            self._thread.start()
        finally:
            threading.stack_size(before)

    def stop(self) -> None:
        """End the connection and the thread."""
        self._call(self._stopping.set)
        self._thread.join(STOP_S)

    def acknowledge(self, payload: bytes) -> None:
        """Have this written, unless something newer comes before it could be."""
        if payload != self._payload:
            self._payload = payload
            self._call(self._news.set)

    def _call(self, work: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the thread has ended
            self._loop.call_soon_threadsafe(work)

    def _run(self) -> None:
        for name in ("asyncio", "nats"):  # what they say about a failure may quote a message, that is, a record
            logging.getLogger(name).addHandler(logging.NullHandler())
            logging.getLogger(name).propagate = False
        self._loop.set_exception_handler(lambda _loop, _context: None)
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            self._loop.set_default_executor(ThreadPoolExecutor(max_workers=1))  # resolves names
            runner.run(self._keep_connected())

    async def _keep_connected(self) -> None:
        position, failures = Position(), 0
        stopping = asyncio.ensure_future(self._stopping.wait())
        while not self._stopping.is_set():
            self._connected = False
            session = asyncio.ensure_future(Session(self._settings, position, self).run())
            await asyncio.wait((session, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not session.done():
                session.cancel()
                await asyncio.wait((session,))
                return
            failures = 1 if self._connected else failures + 1
            self._say(_reason(session))
            # Anywhere between now and twice the time: a fleet that has lost a server must not return in step.
            delay = 2 * backoff.delay(failures, 0) * random.random()
            await asyncio.wait((stopping,), timeout=delay)

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self._wake()

    # What a session tells (session.Sink).

    def reset(self, stream: str) -> None:
        self._put(self.watched, Replica.reset, stream)

    def begin(self, number: int, revision: int) -> None:
        self._put(self.watched, Replica.begin, number, revision)

    def watched_entry(self, entry: Entry) -> None:
        self._put(self.watched, Replica.watch, entry)

    def compared_entry(self, number: int, entry: Entry) -> None:
        self._put(self.compared, Replica.seen, number, entry)

    def end(self, number: int) -> None:
        self._put(self.compared, Replica.end, number)

    def connected(self) -> None:
        self._connected = True
        self._say("")
        if self._payload:
            self._news.set()

    def acknowledged(self, problem: str) -> None:
        if problem:
            self._news.set()
        if problem != self.unacknowledged:
            self.unacknowledged = problem
            self._wake()

    def has_room(self) -> bool:
        return len(self.watched) + len(self.compared) < WAITING

    async def applied(self) -> bytes:
        await self._news.wait()
        self._news.clear()
        return self._payload or b""

    def _put(self, queue: deque[Event], *event: Any) -> None:
        queue.append(event)
        self._wake()


def _reason(session: asyncio.Task[None]) -> str:
    error = session.exception()
    return str(error) if isinstance(error, Lost) else f"unforeseen {type(error).__name__}"
