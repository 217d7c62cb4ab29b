"""A bpffs of our own, which nobody but root can enter: pins in the shared one would be for others to find."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from jetplane.errors import KernelError, RequirementError

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def is_mounted(directory: Path) -> bool:
    """Whether a bpffs is mounted at `directory`, in this mount namespace (proc(5), mountinfo)."""
    wanted = str(directory.resolve())
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        path = before.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape")  # \040 is a space
        if path == wanted and after.split()[0] == "bpf":
            return True
    return False


def is_private(directory: Path) -> bool:
    """Whether it is mounted, and only its owner, root, may look inside."""
    if not is_mounted(directory):
        return False
    status = directory.stat()
    return status.st_uid == 0 and not status.st_mode & 0o077


def mount(directory: Path) -> bool:
    """Mount a bpffs there, mode 0700; False when it was. Raises RequirementError when the kernel refuses."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_mounted(directory):
        if not is_private(directory):
            directory.chmod(0o700)
        return False
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    if _libc.mount(b"bpf", os.fsencode(directory), b"bpf", ctypes.c_ulong(flags), b"mode=0700") != 0:
        number = ctypes.get_errno()
        hint = {
            errno.EPERM: "run as root, or mount it beforehand: mount -t bpf -o mode=0700 bpf DIRECTORY",
            errno.ENODEV: "this kernel was built without BPF (CONFIG_BPF_SYSCALL)",
        }
        raise RequirementError(f"mounting a bpffs at {directory}: {os.strerror(number)}", hint=hint.get(number, ""))
    return True


def unmount(directory: Path) -> None:
    """Unmount it, also when someone stands in it; fine when it is not mounted. What is pinned only there ends."""
    while is_mounted(directory):
        if _libc.umount2(os.fsencode(directory), _MNT_DETACH) != 0:
            number = ctypes.get_errno()
            raise KernelError(f"unmounting {directory}: {os.strerror(number)}", errno=number)
