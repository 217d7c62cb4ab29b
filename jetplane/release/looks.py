"""One look at handshakes in each slot of UTC, by a short-lived process that returns one number."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Final

from jetplane.errors import BackendError, JetplaneError
from jetplane.metrics import noise
from jetplane.metrics.epochs import Opening
from jetplane.wireguard.child import start

PATIENCE_S: Final = 60.0

Enter = Callable[[int, int, int], object]
"""`Statistics.add_handshakes`: number of the epoch, slot, peers."""


class Looks:
    """Looks near the end of each slot of the open epoch, so that no handshake falls between two looks."""

    def __init__(self, kind: str, selector: selectors.BaseSelector, failed: Callable[[JetplaneError], object]) -> None:
        self._kind, self._selector, self._failed = kind, selector, failed
        self._child: tuple[subprocess.Popen[bytes], int, float] | None = None
        self._last = -1

    def follow(self, opening: Opening, names: Iterable[str], without: Callable[[], bytes], enter: Enter) -> float:
        """Look if it is time; return the seconds until the next look. `without` are keys that are not counted.

        `enter` is called with what was found, unless the epoch is over by then.
        """
        if self._kind == "veth":
            return opening.length  # no handshakes
        if self._child is not None and time.monotonic() - self._child[2] > PATIENCE_S:
            self._child[0].kill()
        slot_s = opening.length / noise.handshake_slots(opening.length)
        now = time.time()
        slot = int(now // slot_s)
        at = (slot + 1) * slot_s - early(slot_s)
        if now < at or slot == self._last:
            return at - now if now < at else at + slot_s - now
        if self._child is None:
            self._last = slot
            self._begin(names, slot_s, without(), lambda peers: enter(opening.number, slot, peers))
        return at + slot_s - now

    def close(self) -> None:
        """End a look that is under way."""
        if self._child:
            process, pidfd, _ = self._child
            self._child = None
            self._selector.unregister(pidfd)
            os.close(pidfd)
            process.kill()
            process.communicate()

    def _begin(self, names: Iterable[str], window: float, without: bytes, found: Callable[[int], object]) -> None:
        keys = os.memfd_create("keys", os.MFD_CLOEXEC)
        try:
            os.write(keys, without)
            os.lseek(keys, 0, os.SEEK_SET)
            process = start(
                "jetplane.wireguard.handshakes", self._kind, f"{window}", *names, stdin=keys, stdout=subprocess.PIPE
            )
        except OSError as error:
            self._failed(BackendError(f"looking at handshakes: {error.strerror}", errno=error.errno or 0))
            return
        finally:
            os.close(keys)
        pidfd = os.pidfd_open(process.pid)
        self._child = process, pidfd, time.monotonic()
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._finish(found))

    def _finish(self, found: Callable[[int], object]) -> None:
        assert self._child is not None
        (process, pidfd, _), self._child = self._child, None
        self._selector.unregister(pidfd)
        os.close(pidfd)
        said, _ = process.communicate()
        number = int(said) if said.strip().removeprefix(b"-").isdigit() else None
        if number is not None and number >= 0:
            found(number)
        else:
            reason = f"its process ended with status {process.returncode}" if number is None else os.strerror(-number)
            self._failed(BackendError(f"looking at handshakes: {reason}"))


def early(slot_s: float) -> float:
    """How long before the end of a slot it is looked at: time enough for the look to be entered."""
    return min(5.0, slot_s / 4)
