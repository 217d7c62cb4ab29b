"""What the exporter may still ask of the kernel once it serves: to read what is there, and to answer who connects.

A filter in classic BPF, checked at every system call (seccomp(2)); what is not listed is refused with EPERM. So there
is no new socket, hence no netlink; no bpf(2), no exec, fork or ptrace, no file opened to be written, no memory that
can be both filled and run. It cannot be taken off again. Numbers: asm/unistd_64.h for x86-64,
asm-generic/unistd.h for aarch64; tests compare them with the headers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jetplane.errors import RequirementError

ALLOW = 0x7FFF0000  # linux/seccomp.h: SECCOMP_RET_ALLOW
REFUSE = 0x00050000 | errno.EPERM  # SECCOMP_RET_ERRNO
KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_SET_MODE_FILTER = 1  # linux/seccomp.h
_FLAG_TSYNC = 1  # every thread, not only this one

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # linux/bpf_common.h: LD|W|ABS, JMP|JEQ|K, JMP|JSET|K, RET|K
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; arguments are of 64 bits
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, k

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PROT_EXEC = 4  # asm-generic/mman-common.h
_FIONBIO = 0x5421  # asm-generic/ioctls.h


@dataclass(frozen=True, slots=True)
class Machine:
    """An architecture: its AUDIT_ARCH (linux/audit.h), its column of the numbers below, the number of seccomp(2)."""

    audit: int
    column: int
    seccomp: int


MACHINES = {"x86_64": Machine(0xC000003E, 0, 317), "aarch64": Machine(0xC00000B7, 1, 277)}

NUMBERS: Mapping[str, tuple[int, int]] = {
    # a scrape, most frequent first; aarch64 never had epoll_wait (-1)
    "epoll_wait": (232, -1), "epoll_pwait": (281, 22), "epoll_ctl": (233, 21), "accept4": (288, 242),
    "recvfrom": (45, 207), "sendto": (44, 206), "sendmsg": (46, 211), "shutdown": (48, 210), "close": (3, 57),
    "getsockname": (51, 204), "getpeername": (52, 205), "getsockopt": (55, 209), "setsockopt": (54, 208),
    # a new release
    "newfstatat": (262, 79), "fstat": (5, 80), "lseek": (8, 62), "read": (0, 63),
    # Python itself: memory, time, chance, its own signals, reading a module late, saying why it ends
    "brk": (12, 214), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233), "futex": (202, 98),
    "clock_gettime": (228, 113), "clock_nanosleep": (230, 115), "restart_syscall": (219, 128), "getrandom": (318, 278),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "getpid": (39, 172),
    "gettid": (186, 178), "tgkill": (234, 131), "fcntl": (72, 25), "getdents64": (217, 61), "write": (1, 64),
    "exit": (60, 93), "exit_group": (231, 94),
    # with a condition
    "openat": (257, 56), "mmap": (9, 222), "mprotect": (10, 226), "ioctl": (16, 29),
}  # fmt: skip
"""Name → number on x86-64 and on aarch64."""

WITHOUT_BITS = {"openat": (2, _WRITING), "mmap": (2, _PROT_EXEC), "mprotect": (2, _PROT_EXEC)}
"""Allowed when this argument has none of these bits."""
WITH_VALUE = {"ioctl": (1, _FIONBIO)}
"""Allowed when this argument is just that."""


def program(machine: Machine) -> tuple[bytes, ...]:
    """The filter's instructions (struct sock_filter). Other architectures kill: their numbers differ."""
    return (
        _do(_LOAD, _ARCHITECTURE),
        _jump(_EQUAL, machine.audit, yes=1, no=0),
        _do(_RETURN, KILL),
        _do(_LOAD, _NUMBER),
        *(step for name in NUMBERS for step in _rule(name, machine)),
        _do(_RETURN, REFUSE),
    )


def confine() -> None:
    """Put the filter on this process, all threads, for good. Raises RequirementError: the caller must not go on."""
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise RequirementError(
            f"metrics: the exporter has no filter of system calls for {platform.machine()}",
            hint=f"it has one for {' and '.join(MACHINES)}; metrics.enabled = false runs the node without metrics",
        )
    try:
        _install(machine)
    except OSError as error:
        raise RequirementError(
            f"metrics: the exporter cannot have its system calls filtered: {error.strerror}",
            hint="use a kernel with CONFIG_SECCOMP_FILTER; metrics.enabled = false runs the node without metrics",
        ) from None


def _rule(name: str, machine: Machine) -> Iterator[bytes]:
    """What lets one call through; nothing where the architecture has no such call."""
    number = NUMBERS[name][machine.column]
    if number < 0:
        return
    condition: tuple[bytes, ...] = ()
    if name in WITHOUT_BITS:
        argument, bits = WITHOUT_BITS[name]
        condition += (_do(_LOAD, _argument(argument)), _jump(_ANY_BIT, bits, yes=0, no=1), _do(_RETURN, REFUSE))
    elif name in WITH_VALUE:
        argument, value = WITH_VALUE[name]
        condition += (_do(_LOAD, _argument(argument)), _jump(_EQUAL, value, yes=1, no=0), _do(_RETURN, REFUSE))
    yield _jump(_EQUAL, number, yes=0, no=len(condition) + 1)
    yield from condition
    yield _do(_RETURN, ALLOW)


def _argument(index: int) -> int:
    """Where the lower half of an argument lies; both machines are little-endian, and no upper half means anything."""
    return _ARGUMENTS + 8 * index


def _do(code: int, operand: int) -> bytes:
    return _INSTRUCTION.pack(code, 0, 0, operand)


def _jump(code: int, operand: int, *, yes: int, no: int) -> bytes:
    """Skip so many instructions."""
    return _INSTRUCTION.pack(code, yes, no, operand)


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))  # linux/filter.h: struct sock_fprog


_libc = ctypes.CDLL(None, use_errno=True)


def _install(machine: Machine) -> None:
    steps = program(machine)
    code = ctypes.create_string_buffer(b"".join(steps))
    handed = _Program(len(steps), ctypes.addressof(code))
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or _libc.syscall(
        ctypes.c_long(machine.seccomp), _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.byref(handed)
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
