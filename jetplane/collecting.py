"""Garbage collection, put off while a hundred thousand objects are made on purpose."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no cycles meanwhile: the collector goes through everything again and again as objects come to be, and
    took three quarters of the time in which 100,000 steps were planned."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
