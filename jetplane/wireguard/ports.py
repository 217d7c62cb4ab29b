"""Who has a UDP port? Asked before a tunnel gets it: one that is down takes any port, and fails when it goes up."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from jetplane.errors import BackendError


def check_free(name: str, port: int) -> None:
    """Raise BackendError when `port` cannot be bound, on IPv4 or IPv6, in this network namespace.

    `name` is the tunnel that wants it. A machine without IPv6 is asked about IPv4 only.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(("", port))
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                continue
            raise refusal(name, port, error.errno or 0) from None


def is_held_by(pid: int, port: int) -> bool:
    """Whether the process has a UDP socket on `port`; proc(5), /proc/PID/fd and /proc/PID/net/udp.

    False, too, for a process that is gone or that may not be looked into.
    """
    process = Path(f"/proc/{pid}")
    bound = set()
    for table in ("udp", "udp6"):
        with suppress(OSError):  # no IPv6, or no such process
            rows = (line.split() for line in (process / "net" / table).read_text(encoding="ascii").splitlines()[1:])
            bound |= {int(row[9]) for row in rows if row[1].endswith(f":{port:04X}")}
    with suppress(OSError):
        return any(_socket_inode(descriptor) in bound for descriptor in (process / "fd").iterdir())
    return False


def _socket_inode(descriptor: Path) -> int:
    """The inode of a socket in /proc/PID/fd, 0 for anything else and for what has just been closed."""
    try:
        status = descriptor.stat()
    except FileNotFoundError:
        return 0
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else 0


def refusal(name: str, port: int, code: int) -> BackendError:
    """The error for a port that a tunnel did not get."""
    hint = f"free it, or choose another listen_port: ss -ulnp 'sport = {port}'" if code == errno.EADDRINUSE else ""
    return BackendError(f"{name}: listen_port {port}: {os.strerror(code)}", errno=code, hint=hint)
