"""Gives up every right a process has, for good. Sources: prctl(2), capabilities(7), setrlimit(2)."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import struct
from pathlib import Path

from jetplane.errors import JetplaneError, RequirementError
from jetplane.privacy.process import forbid_core_dumps

_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522


def account(user: str) -> tuple[int, int]:
    """User and group id to run as. Raises JetplaneError for an unknown user and for one that is root."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise JetplaneError(
            f"metrics.user = {user!r}: there is no such user", hint="create it, or use nobody"
        ) from None
    if entry.pw_uid == 0:
        raise JetplaneError(f"metrics.user = {user!r}: the exporter does not run as root", hint="use nobody")
    return entry.pw_uid, entry.pw_gid


def drop(uid: int, gid: int, *, open_files: int) -> None:
    """Become this user without capabilities, now and after any exec; no core dump, no child, no file written.

    Needs root, or to be that user already. Raises RequirementError: the caller must then exit, not go on.
    """
    os.chdir("/")
    try:
        if os.getresuid() != (uid, uid, uid):
            for capability in range(_last_capability() + 1):  # while CAP_SETPCAP is still there
                _prctl(_PR_CAPBSET_DROP, capability)
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        _clear_capabilities()
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        forbid_core_dumps()  # again: a change of user has undone it, as fs.suid_dumpable says
        for limit, value in (
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_NPROC, 0),
            (resource.RLIMIT_NOFILE, open_files),
        ):
            resource.setrlimit(limit, (value, value))
    except OSError as error:
        raise RequirementError(
            f"metrics: the exporter cannot give up its rights: {error.strerror}",
            hint="start it as root or as the user it is to run as",
        ) from None


def _last_capability() -> int:
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _clear_capabilities() -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    nothing = bytes(6 * 4)  # effective, permitted, inheritable; twice 32 bits each
    _check(_libc.capset(header, nothing))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
