"""Looks at what processes hold open: files that they may write to, and what an exporter has no use for."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from jetplane.audit import proc

_STANDARD = (0, 1, 2)
_NOWHERE = frozenset({"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/net/tun"})
_TABLES = {"netlink": 9, "packet": 8, "raw": 9, "raw6": 9, "udp": 9, "udp6": 9, "unix": 6}
"""The tables of /proc/PID/net, and which column of each is the inode."""

_UNIX_WITHOUT_NAME = 7  # columns


def writes(pid: int, run_directory: Path) -> Iterator[str]:
    """Regular files outside the run directory that it may write to. Where its own voice goes is judged as a log."""
    for descriptor, name in proc.descriptors(pid):
        if descriptor in _STANDARD or not name.startswith("/") or name.startswith("/memfd:"):
            continue
        if not Path(name).is_relative_to(run_directory) and proc.may_write(pid, descriptor):
            yield from [name] if _is_regular(pid, descriptor) else []


def _is_regular(pid: int, descriptor: int) -> bool:
    try:
        return stat.S_ISREG(Path(f"/proc/{pid}/fd/{descriptor}").stat().st_mode)
    except OSError:
        return False


def strangers(pid: int, release: Path) -> Iterator[str]:
    """What an exporter holds that is neither a TCP socket, nor of its own loop, nor the release."""
    sockets = dict(_sockets(pid))
    for descriptor, name in proc.descriptors(pid):
        file = name.startswith("/") and descriptor not in _STANDARD and name not in _NOWHERE
        if name in sockets:
            yield f"a {sockets[name]} socket"
        elif "bpf" in name and not name.startswith("/"):
            yield f"a {name.removeprefix('anon_inode:')}"
        elif file and not Path(name).is_relative_to(release) and not proc.may_write(pid, descriptor):
            yield "a file that is not of the release"


def _sockets(pid: int) -> Iterator[tuple[str, str]]:
    """Name of a socket in /proc/PID/fd → what it is, of all of its namespace but TCP's and nameless pairs."""
    for table, column in _TABLES.items():
        for row in map(str.split, proc.text(pid, f"net/{table}").splitlines()[1:]):
            if table != "unix" or len(row) > _UNIX_WITHOUT_NAME:
                yield f"socket:[{row[column]}]", table.removesuffix("6")
