"""One controller per node: a pid file that is locked as long as its owner lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from jetplane.errors import JetplaneError

FILE = "controller.pid"


@contextlib.contextmanager
def controller_lock(directory: Path) -> Iterator[None]:
    """Hold the lock; the kernel releases it however the process ends (flock(2)). Raises JetplaneError."""
    with (directory / FILE).open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JetplaneError(
                f"{directory}: a controller is already running (pid {holder(directory)})",
                hint="stop it first, or give this node a run_directory of its own",
            ) from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


def holder(directory: Path) -> int | None:
    """Pid of the running controller, or None: the file alone proves nothing, the lock does."""
    try:
        with (directory / FILE).open() as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(handle.read().strip() or 0) or None
    except FileNotFoundError:
        pass
    return None
