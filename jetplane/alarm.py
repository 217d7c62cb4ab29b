"""An alarm by the wall clock: a descriptor that wakes at a time, and whenever somebody sets the clock.

A timer that counts seconds from now would ring late or early when the clock is stepped; the kernel's timerfd with an
absolute time on CLOCK_REALTIME does not (timerfd_create(2)). Python 3.11 has no binding for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final, Self

_CLOCK_REALTIME: Final = 0
_ABSOLUTE: Final = 1  # TFD_TIMER_ABSTIME
_CANCEL_ON_SET: Final = 2  # TFD_TIMER_CANCEL_ON_SET
_NEVER: Final = 1 << 33  # in the year 2242: an alarm that is not set still hears of clocks that are

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """A context manager. Raises OSError only when the kernel has no timerfd at all."""

    def __init__(self) -> None:
        self._fd = _libc.timerfd_create(_CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def fileno(self) -> int:
        """Readable when the time has come, or the clock was set: call `take` then."""
        return int(self._fd)

    def set(self, at: int | None) -> None:
        """Ring at this Unix second; at once if it has passed; None: not at all."""
        value = _Timespec(min(max(at, 1), _NEVER) if at is not None else _NEVER, 0)  # 0 would disarm it
        spec = ctypes.byref(_Itimerspec(_Timespec(), value))
        # ECANCELED: the clock was set since the last look; the descriptor says so as well (fs/timerfd.c).
        if _libc.timerfd_settime(self._fd, _ABSOLUTE | _CANCEL_ON_SET, spec, None) < 0:
            code = ctypes.get_errno()
            if code != errno.ECANCELED:
                raise OSError(code, "timerfd_settime")

    def take(self) -> bool:
        """Quieten the descriptor; true when the clock was set."""
        try:
            os.read(self._fd, 8)
        except OSError as error:
            return error.errno == errno.ECANCELED
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
