"""Keeps a process's memory out of core dumps, swap and other users' reach."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # asm-generic/mman.h

_libc = ctypes.CDLL(None, use_errno=True)


def forbid_core_dumps() -> None:
    """No core file, no ptrace by the same user, /proc/PID of root only. Raises OSError.

    The limit alone does not bind a core_pattern that is a pipe; the other does (prctl(2), core(5)).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def forbid_swapping() -> None:
    """Keep every page of this process in memory, as it is touched (mlockall(2)). Raises OSError."""
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def give_back_what_is_free() -> None:
    """Return freed memory to the system, where the C library can (malloc_trim(3)). Raises OSError.

    Pages that are locked cannot be returned: they are unlocked meanwhile, some milliseconds.
    """
    locked = "VmLck:\t       0 kB" not in Path("/proc/self/status").read_text(encoding="ascii")
    if locked:
        _libc.munlockall()
    try:
        _libc.malloc_trim(0)
    finally:
        if locked:
            forbid_swapping()


_ERASING = {"PYTHONMALLOC": "malloc", "MALLOC_PERTURB_": "165", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}


def erase_what_is_freed(*again: str) -> None:
    """Have every freed byte overwritten at once, so that what is forgotten is not left in this process's memory.

    Python's own allocator keeps small objects in arenas, as they were, until it needs the place; the C library's can be
    told to overwrite what it gets back, save in its per-thread caches (mallopt(3), M_PERTURB). Both are settled when a
    process starts, so it starts anew, once, as `python -m` with the arguments `again`; its children are spared.
    """
    settled = {name: os.environ.pop(name, None) for name in _ERASING}
    if settled == _ERASING:
        return
    # -P: a directory named jetplane where the operator happens to stand is not imported
    os.execve(sys.executable, [sys.executable, "-P", "-m", *again], {**os.environ, **_ERASING})
