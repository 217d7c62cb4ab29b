"""Everything a lab leaves on the machine can be found by the lab's name; this removes it.

The same way serves a lab that ends, `lab down`, and what a killed run left: processes, mounts, WireGuard
sockets, namespaces, and last the directory, which keeps the name taken until all the rest is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jetplane.errors import JetplaneError
from jetplane.lab import namespaces
from jetplane.readable import readable

DIRECTORY = Path("/run/jetplane-lab")
"""One directory per lab; its name is the lab's."""

_SOCKETS = Path("/run/wireguard")
_MNT_DETACH = 2
_TERMINATE_S = 10.0
_KILL_S = 5.0


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that a lab lives and dies with; a standing lab outlives the process that built it."""

    pid: int
    started: int  # in clock ticks after boot: tells a recycled pid from the owner
    standing: bool = False

    @classmethod
    def this_process(cls, *, standing: bool = False) -> Owner:
        """Return an owner that lives as long as the calling process."""
        return cls(os.getpid(), _started(os.getpid()) or 0, standing)

    @property
    def alive(self) -> bool:
        """Whether the lab is still somebody's."""
        return self.standing or _started(self.pid) == self.started


def free_name() -> str:
    """Return a name no lab has. It begins with this process's id."""
    for suffix in ("", *"abcdefghijklmnopqrstuvwxyz"):
        lab = f"{os.getpid()}{suffix}"
        if not (DIRECTORY / lab).exists():
            return lab
    raise JetplaneError("lab: this process has too many labs", hint="end one with `jetplane lab down`")


def claim(lab: str) -> None:
    """Make the lab's directory and write down that it is this process's."""
    DIRECTORY.mkdir(mode=0o711, exist_ok=True)
    (DIRECTORY / lab).mkdir(mode=0o711)
    set_owner(lab, Owner.this_process())


def set_owner(lab: str, owner: Owner) -> None:
    """Write down whose lab it is, whole or not at all."""
    path = DIRECTORY / lab / "owner.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"pid": owner.pid, "started": owner.started, "standing": owner.standing}))
    fresh.rename(path)


def owner_of(lab: str) -> Owner | None:
    """Return whose lab it is; None when nobody ever said, as after a kill between two steps."""
    try:
        fields = json.loads((DIRECTORY / lab / "owner.json").read_text())
        return Owner(int(fields["pid"]), int(fields["started"]), bool(fields["standing"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def labs() -> list[str]:
    """Return the names of all labs of which anything is left."""
    found = {path.name for path in DIRECTORY.iterdir()} if DIRECTORY.is_dir() else set()
    found |= {name.split("-")[1] for name in namespaces.names("jetlab-")}
    return sorted(found)


def remove_abandoned() -> list[str]:
    """Remove every lab whose owner is gone; return their names. A living lab is not touched."""
    gone = [lab for lab in labs() if not _somebodys(lab)]
    for lab in gone:
        remove(lab)
    return gone


def _somebodys(lab: str) -> bool:
    if owner := owner_of(lab):
        return owner.alive
    # Between making its directory and writing its owner's name, a lab belongs to the process it is named after.
    return _started(int("0" + "".join(filter(str.isdigit, lab)))) is not None


def remove(lab: str) -> None:
    """Remove whatever there is of this lab; nothing left to do is fine."""
    own = namespaces.names(f"jetlab-{lab}-")
    _end_processes(lab, {namespaces.inode(name) for name in own})
    for point in _mounts_below(DIRECTORY / lab):
        _unmount(point)
    for socket in _SOCKETS.glob(f"jl{lab}[ns][0-9].sock"):
        socket.unlink(missing_ok=True)
    for name in own:
        namespaces.remove(name)
    shutil.rmtree(DIRECTORY / lab, ignore_errors=True)
    with contextlib.suppress(OSError):
        DIRECTORY.rmdir()  # only when it was the last one


def processes(lab: str, inodes: set[int]) -> Iterator[int]:
    """Yield the ids of the lab's processes: by the mark they carry, or wireguard-go in one of its namespaces."""
    mark = f"{namespaces.MARK}={lab}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it may end at any moment
                if _marked(entry, mark) or _is_wireguard_go(entry, inodes):
                    yield int(entry.name)


def _marked(entry: Path, mark: bytes) -> bool:
    return mark in (entry / "environ").read_bytes().split(b"\0")


def _is_wireguard_go(entry: Path, inodes: set[int]) -> bool:
    return (entry / "ns/net").stat().st_ino in inodes and (entry / "exe").readlink().name == "wireguard-go"


def _end_processes(lab: str, inodes: set[int]) -> None:
    for sign, patience in ((signal.SIGTERM, _TERMINATE_S), (signal.SIGKILL, _KILL_S)):
        handles = []
        for pid in processes(lab, inodes):
            with contextlib.suppress(ProcessLookupError):
                handles.append(os.pidfd_open(pid))
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, sign)
        deadline = time.monotonic() + patience
        for handle in handles:
            readable(handle, deadline - time.monotonic())  # when it has ended
            os.close(handle)


def _mounts_below(directory: Path) -> list[str]:
    """Mount points below a directory, the innermost first."""
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{directory}/")), reverse=True)


def _unmount(point: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.umount2(point.encode(), _MNT_DETACH)


def _started(pid: int) -> int | None:
    """Start time in clock ticks after boot (proc(5), field 22); None when there is no such process, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
