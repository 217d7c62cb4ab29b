"""Where the admin socket is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

FILE = "admin.sock"


@contextlib.contextmanager
def reachable(directory: Path) -> Iterator[str]:
    """The socket's address for bind(2) and connect(2), short enough wherever the directory is (108 bytes, unix(7))."""
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{FILE}"
    finally:
        os.close(handle)
