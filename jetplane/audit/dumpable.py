"""Whether a process may be dumped or traced by another one of its user: the flag of prctl(2), PR_SET_DUMPABLE.

The kernel does not show it. But get_robust_list(2) of another process is refused to who lacks CAP_SYS_PTRACE, exactly
if that one is not dumpable, or has rights that the asking thread could not take (__ptrace_may_access in
kernel/ptrace.c). So a thread puts that one right aside, keeps it among those it may take, asks, and ends.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import threading

_CAPABILITY_VERSION_3 = 0x20080522
_SYS_PTRACE = 19
_GET_ROBUST_LIST = {"x86_64": 274, "i686": 312, "armv7l": 339, "ppc64le": 299, "ppc64": 299, "s390x": 305}
_GENERIC = 100  # include/uapi/asm-generic/unistd.h

_libc = ctypes.CDLL(None, use_errno=True)


def is_dumpable(pid: int) -> bool:
    """Ask. A process of another user that is not dumpable looks the same as one that is: look at its files' owner."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(_ask(pid)), daemon=True)
    thread.start()
    thread.join()
    return answers[0] if answers else True


def _ask(pid: int) -> bool:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    if _libc.capget(header, sets) != 0:
        return True
    numbers = list(struct.unpack("=6I", sets.raw))  # effective, permitted, inheritable; low words, then high ones
    numbers[0] &= ~(1 << _SYS_PTRACE)
    if _libc.capset(header, struct.pack("=6I", *numbers)) != 0:
        return True
    head, size = ctypes.c_void_p(), ctypes.c_size_t()
    number = _GET_ROBUST_LIST.get(platform.machine(), _GENERIC)
    result = _libc.syscall(ctypes.c_long(number), pid, ctypes.byref(head), ctypes.byref(size))
    return result == 0 or ctypes.get_errno() != errno.EPERM
