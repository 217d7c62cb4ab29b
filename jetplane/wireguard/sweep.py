"""Makes WireGuard forget idle peers: where they were, when, and how much they sent. The peers stay.

An eviction overwrites the endpoint with a discard address at once, then removes the peer and adds it again as it is
wanted: that clears the endpoint, the handshake time, the counters and every session key, and the subscriber
can connect again at once. Allowed IPs have no owner for some microseconds, when no session could use them.

What it costs: with the session goes the greatest timestamp seen of that peer (WireGuard, section 5.1). Who recorded a
handshake initiation on the wire can send it once more after each eviction, from any address, and it is answered: 92
bytes for 148. No session comes of it, since the answer is of use only with the initiator's ephemeral private key. The
peer is then half-open, with the sender's endpoint, not the subscriber's, until the next look; the subscriber's own
next initiation is newer and wins. The sender learns that this peer is still configured and has been idle since
the recording. No interface of WireGuard sets that timestamp, so this is stated, not closed.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from typing import Final

from jetplane.errors import BackendError
from jetplane.model import PublicKey
from jetplane.wireguard.child import start
from jetplane.wireguard.idle import LIMITS, Limits
from jetplane.wireguard.look import unpack

BATCH: Final = 64
"""Peers evicted in one step of the controller, which does other things between steps."""

PATIENCE_S: Final = 60.0
"""Longer than this no look takes, its grace apart."""


class Sweeper:
    """One tunnel's idle peers: looks for them every so often, and names them for eviction batch by batch.

    Between looks it knows nothing; meanwhile, only which keys are to be evicted.
    """

    def __init__(self, kind: str, name: str, limits: Limits = LIMITS, clock: Callable[[], float] = time.monotonic):
        self._kind, self._name, self._limits, self._clock = kind, name, limits, clock
        self._looking: subprocess.Popen[bytes] | None = None
        self._answer = -1
        self._began = 0.0
        self._next = clock()
        self._idle: list[PublicKey] = []

    def take(self) -> tuple[PublicKey, ...]:
        """Return some peers to evict now, or none. Never waits: a look goes on from one call to the next.

        Raises BackendError when a look failed; the next one is made in its time.
        """
        if not self._idle:
            self._follow()
        batch, self._idle = self._idle[:BATCH], self._idle[BATCH:]
        return tuple(batch)

    @property
    def more(self) -> bool:
        """Whether `take` has more to give at once."""
        return bool(self._idle)

    def close(self) -> None:
        """End a look that goes on."""
        if self._looking is not None:
            self._looking.kill()
            self._end()

    def _follow(self) -> None:
        now = self._clock()
        if self._looking is None:
            if now >= self._next:
                self._begin(now)
        elif self._looking.poll() is not None:
            self._next = max(self._began + self._limits.every_s, now)
            self._idle = self._read(self._looking.returncode)
            if len(self._idle) == self._limits.most:
                self._next = now  # there are more
        elif now - self._began > self._limits.grace_s + PATIENCE_S:
            self.close()
            self._next = now + self._limits.every_s
            raise BackendError(f"{self._doing}: no answer within {PATIENCE_S:.0f} s", errno=errno.ETIMEDOUT)

    def _begin(self, now: float) -> None:
        limits = self._limits
        self._began = now
        # The answer goes to memory: the child need not wait until somebody reads it.
        self._answer = os.memfd_create("idle", os.MFD_CLOEXEC)
        arguments = (self._kind, self._name, f"{limits.stale_s}", f"{limits.grace_s}", f"{limits.most}")
        try:
            self._looking = start("jetplane.wireguard.look", *arguments, stdout=self._answer)
        except OSError as error:
            self._end()
            self._next = now + limits.every_s
            code = error.errno or errno.EIO
            raise BackendError(f"{self._doing}: {os.strerror(code)}", errno=code) from None

    def _read(self, status: int) -> list[PublicKey]:
        try:
            if status:
                raise BackendError(f"{self._doing}: the process that looks ended with status {status}")
            data = os.pread(self._answer, os.fstat(self._answer).st_size, 0)
            return [PublicKey(key) for key in unpack(data)]
        except OSError as error:
            code = error.errno or errno.EIO
            raise BackendError(f"{self._doing}: {os.strerror(code)}", errno=code) from None
        except ValueError:
            raise BackendError(f"{self._doing}: the process that looks gave half an answer") from None
        finally:
            self._end()

    def _end(self) -> None:
        if self._looking is not None:
            self._looking.wait()
            self._looking = None
        if self._answer >= 0:
            os.close(self._answer)
            self._answer = -1

    @property
    def _doing(self) -> str:
        return f"{self._name}: looking for idle peers"
