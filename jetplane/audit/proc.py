"""Reads proc(5). A process that has ended meanwhile gives nothing, and is no error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def text(pid: int, file: str) -> str:
    """A file of a process, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status: name → value."""
    return {
        name: value.strip() for name, _, value in (line.partition(":") for line in text(pid, "status").splitlines())
    }


def arguments(pid: int) -> list[str]:
    """The command line."""
    return text(pid, "cmdline").rstrip("\0").split("\0")


def descriptors(pid: int) -> Iterator[tuple[int, str]]:
    """(descriptor, what it is) of everything that a process holds open, as /proc/PID/fd names it."""
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return
    for entry in entries:
        try:
            yield int(entry.name), str(entry.readlink())
        except OSError:
            continue


def may_write(pid: int, descriptor: int) -> bool:
    """Whether it was opened for writing (the octal `flags` of its fdinfo, open(2))."""
    for line in text(pid, f"fdinfo/{descriptor}").splitlines():
        if line.startswith("flags:"):
            return bool(int(line.split()[1], 8) & 0o3)
    return False


def sockets_of(pid: int) -> frozenset[int]:
    """Inodes of its sockets."""
    return frozenset(int(name[8:-1]) for _, name in descriptors(pid) if name.startswith("socket:["))


def parents() -> dict[int, int]:
    """Process → parent, of all there are."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        stat = text(int(path.name), "stat")
        if stat:  # the name in brackets may hold anything, brackets included
            found[int(path.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def descendants(pid: int) -> frozenset[int]:
    """Its children, theirs, and so on."""
    known, above = {pid}, parents()
    while more := {child for child, parent in above.items() if parent in known} - known:
        known |= more
    return frozenset(known - {pid})
