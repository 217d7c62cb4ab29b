"""Kernel settings under /proc/sys. Those of the network are the calling thread's namespace's own (proc(5))."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from jetplane.errors import KernelError

_ROOT = Path("/proc/sys")
_IPV6 = "net/ipv6/conf"
IPV6_FORWARDING = f"{_IPV6}/all/forwarding"


def read(name: str) -> str | None:
    """The value with single spaces, or None when this kernel or namespace has no such setting."""
    try:
        return " ".join((_ROOT / name).read_text(encoding="ascii").split())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(f"reading sysctl {name}", error) from None


def write(name: str, value: str) -> None:
    """Set it. Raises KernelError."""
    with _keeping_other_interfaces() if name == IPV6_FORWARDING else contextlib.nullcontext():
        _write(name, value)


def _write(name: str, value: str) -> None:
    try:
        (_ROOT / name).write_text(f"{value}\n", encoding="ascii")
    except OSError as error:
        raise _refused(f"setting sysctl {name} to {value}", error) from None


@contextlib.contextmanager
def _keeping_other_interfaces() -> Iterator[None]:
    """Keep what belongs to single interfaces while IPv6 forwarding changes as a whole.

    The kernel forwards IPv6 only if it may for all interfaces, and writing that overwrites the setting of each, and
    throws away the default routes learnt from router advertisements unless accept_ra is 2 (net/ipv6/addrconf.c).
    """
    names = sorted(path.name for path in (_ROOT / _IPV6).iterdir() if path.name != "all")
    forwarding = {f"{_IPV6}/{name}/forwarding": "" for name in names}
    listening = [f"{_IPV6}/{name}/accept_ra" for name in names if read(f"{_IPV6}/{name}/accept_ra") == "1"]
    forwarding = {name: value for name in forwarding if (value := read(name)) is not None}
    for name in listening:
        _write(name, "2")
    try:
        yield
    finally:
        for name, value in forwarding.items():
            if read(name) not in (value, None):
                _write(name, value)
        for name in listening:
            if read(name) == "2":
                _write(name, "1")


def _refused(doing: str, error: OSError) -> KernelError:
    hint = "run as root" if error.errno in (errno.EACCES, errno.EPERM) else ""
    if error.errno == errno.EROFS:
        hint = "/proc/sys is mounted read-only, as in some containers: mount it writable"
    return KernelError(f"{doing}: {os.strerror(error.errno or 0)}", errno=error.errno or 0, hint=hint)
