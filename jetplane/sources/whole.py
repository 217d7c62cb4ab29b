"""Reads a file only when nobody is writing it.

Half of a file can look complete: TOML cut between two tables, a file just emptied. The kernel knows better: a read
lease (fcntl(2), F_SETLEASE) is refused while the file is open for writing, and whoever opens it meanwhile waits until
it is given back. Where leases cannot be had (a network file system) the file is read as it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from jetplane.errors import PeerError


def read(file: Path) -> bytes:
    """The whole content. Raises PeerError, naming the file, when it cannot be read or is being written."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # O_NONBLOCK: a FIFO must not stop us
        with os.fdopen(descriptor, "rb") as handle, _lease(descriptor, file):
            return handle.read()
    except OSError as error:
        raise PeerError(f"{file}: cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def _lease(descriptor: int, file: Path) -> Iterator[None]:
    # The signal that tells of a waiting writer would end the process if it were the default, SIGIO.
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise PeerError(f"{file}: is being written; not applied") from None
        yield
        return
    try:
        yield
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
