"""Peers from a bucket of NATS JetStream: the source behind `peers.source = "nats"`.

A thread keeps the connection; what it hears waits in queues, an eventfd(2) tells the controller, and everything that is
decided is decided in the controller's own thread. An outage changes nothing on the node: peers stay as they are until
the bucket can be read again. Nothing is kept on disk: after a restart the node goes on with what WireGuard and the data
plane hold, and follows the bucket from its first complete copy on.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Self

from jetplane.config import Config
from jetplane.model import PublicKey
from jetplane.sources.access import check_files
from jetplane.sources.feed import Event, Feed
from jetplane.sources.interface import Change
from jetplane.sources.replica import Replica

BATCH = 2_000  # records that one `take` looks at: about 30 ms


class Bucket:
    """The source. Raises ConfigurationError at once when a credential, key or certificate cannot be used."""

    def __init__(self, config: Config, own_keys: frozenset[PublicKey]) -> None:
        check_files(config.nats)
        self._bucket = config.nats.bucket
        self._replica = Replica(config, own_keys)
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._feed = Feed(config.nats, self._wake)

    def fileno(self) -> int:
        """An eventfd."""
        return self._eventfd

    def take(self) -> Change | None:
        """What is new; see Source. Changes go before what a comparison brings: a revocation does not wait for it."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._eventfd)
        for _ in range(BATCH):
            if (event := self._next()) is None:
                break
            work, *arguments = event
            work(self._replica, *arguments)
        else:
            self._wake()
        return self._replica.settle()

    def applied(self, revision: int) -> None:
        """Have the control plane told: soon, and together with what comes until then."""
        if self._replica.complete:
            told = {"revision": revision, "refused": self._replica.refused, "stream": self._replica.stream}
            self._feed.acknowledge(json.dumps(told).encode())

    def problem(self) -> str:
        """Why the bucket is not followed, or what is in force not acknowledged."""
        if self._feed.problem:
            left = "stay as they are" if self._replica.complete else "are left alone"
            return f"nats bucket {self._bucket}: {self._feed.problem}; the peers {left}"
        if not self._replica.complete:
            return f"nats bucket {self._bucket}: its first copy is under way; the peers are left alone"
        if self._feed.unacknowledged:
            return f"nats bucket {self._bucket}-applied: not written: {self._feed.unacknowledged}"
        return ""

    def follow(self, config: Config, own_keys: frozenset[PublicKey]) -> None:
        """Judge by other terms."""
        self._replica.follow(config, own_keys)
        self._wake()

    def __enter__(self) -> Self:
        self._feed.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.stop()
        os.close(self._eventfd)

    def _next(self) -> Event | None:
        """A change if there is one; else what a comparison has brought that has begun."""
        watched, compared = self._feed.watched, self._feed.compared
        if watched:
            return watched.popleft()
        if compared and compared[0][1] <= self._replica.comparison:
            return compared.popleft()
        return None

    def _wake(self) -> None:
        os.eventfd_write(self._eventfd, 1)
