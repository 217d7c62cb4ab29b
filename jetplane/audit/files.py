"""Looks at the files of the run directory and what they lie on; knows the addresses that the configuration names."""

from __future__ import annotations

import ipaddress
import os
import stat
from contextlib import suppress
from pathlib import Path

from jetplane.config import Config
from jetplane.privacy.facts import RunFile
from jetplane.privacy.traces import kinds

_NOT_ENTERED = frozenset({"build"})
"""What the compiler was given is the same on every node."""

_MOST_BYTES = 1 << 20
"""What is longer is read so far: no file of the run directory comes near it."""


def known_addresses(config: Config) -> frozenset[str]:
    """Addresses of the node, not of a peer: they may stand in a log or an argument."""
    tunnels = (str(ipaddress.ip_interface(text).ip) for tunnel in config.tunnel for text in tunnel.addresses)
    relays = (target.endpoint.host for target in config.relay.to)
    return frozenset({*config.exit.ipv4, *config.exit.ipv6, config.metrics.listen, *tunnels, *relays})


def gather(run_directory: Path) -> tuple[RunFile, ...]:
    """Everything below it but the bpffs."""
    found = []
    for directory, names, files in os.walk(run_directory):
        here = Path(directory)
        names[:] = [name for name in names if here != run_directory or name != "bpf"]  # looked at by itself
        for name in (*names, *files):
            with suppress(FileNotFoundError):  # exchanged for a new version
                found.append(_file(here / name, run_directory))
        names[:] = [name for name in names if name not in _NOT_ENTERED]
    return tuple(found)


def file_system(directory: Path) -> str:
    """The type of the file system that a directory is on (proc(5), mountinfo)."""
    best, kind = Path("/"), "nothing known"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        place = Path(before.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape"))
        if directory.resolve().is_relative_to(place) and place.is_relative_to(best):
            best, kind = place, after.split()[0]
    return kind


def _file(path: Path, root: Path) -> RunFile:
    status = path.lstat()
    text = ""
    if stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", "replace")
    found = tuple(kind for kind in kinds(text) if kind == "key")
    return RunFile(str(path.relative_to(root)), stat.S_IMODE(status.st_mode), status.st_uid, found)
