"""Looks at the processes of the node: the controller, what it has started, the exporter, and wireguard-go."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from jetplane.audit import opened, proc
from jetplane.audit.dumpable import is_dumpable
from jetplane.audit.listeners import Listener
from jetplane.config import Config
from jetplane.journal import Journal
from jetplane.privacy.facts import CONTROLLER, EXPORTER, HELPER, WIREGUARD_GO, Process
from jetplane.privacy.traces import kinds
from jetplane.wireguard import process as wireguard_go

_CORE = re.compile(r"^Max core file size\s+(\S+)", re.MULTILINE)


def find(config: Config, controller: int | None, listening: Sequence[Listener]) -> dict[int, str]:
    """Process → role. The exporter is who serves at its place, whoever has started it."""
    found = dict.fromkeys(proc.descendants(controller), HELPER) if controller else {}
    if controller:
        found[controller] = CONTROLLER
    for name, kind in Journal(config.run_directory / "journal.json").tunnels():
        owner = wireguard_go.owner(name) if kind == "userspace" else None
        if owner is not None:
            found[owner.pid] = WIREGUARD_GO
    if config.metrics.enabled:
        inodes = {one.inode for one in listening if one.port == config.metrics.port}
        found |= {pid: EXPORTER for pid in proc.parents() if inodes & proc.sockets_of(pid)}
    return found


def gather(found: Mapping[int, str], config: Config, known: Collection[str]) -> tuple[Process, ...]:
    """Look at each; those that have ended meanwhile are left out."""
    listed = (_process(pid, role, config, known) for pid, role in sorted(found.items()))
    return tuple(process for process in listed if process is not None)


def _process(pid: int, role: str, config: Config, known: Collection[str]) -> Process | None:
    status = proc.status(pid)
    if "VmRSS" not in status:  # gone, or waiting to be reaped
        return None
    return Process(
        pid=pid,
        role=role,
        uids=frozenset(map(int, status["Uid"].split())),
        locked_kb=_kilobytes(status, "VmLck"),
        swapped_kb=_kilobytes(status, "VmSwap"),
        may_swap=_may_swap(pid),
        core_limit=(_CORE.search(proc.text(pid, "limits")) or ["", "unknown"])[1],
        dumpable=_is_dumpable(pid, status),
        capabilities=_capabilities(status),
        no_new_privileges=status.get("NoNewPrivs") == "1",
        seccomp=int(status.get("Seccomp", "0")),
        in_arguments=tuple(kinds(" ".join(proc.arguments(pid)), known=known)),
        in_environment=tuple(kind for kind in kinds(proc.text(pid, "environ")) if kind == "key"),
        writes=tuple(opened.writes(pid, config.run_directory)),
        descriptors=tuple(opened.strangers(pid, config.run_directory / "metrics")) if role == EXPORTER else (),
    )


def _kilobytes(status: Mapping[str, str], name: str) -> int:
    return int(status.get(name, "0 kB").split()[0])


def _capabilities(status: Mapping[str, str]) -> int:
    """Bits that any of the sets has, the bounding set apart: nothing follows from it alone without new privileges."""
    return sum({1 << bit for name in ("CapInh", "CapPrm", "CapEff", "CapAmb") for bit in _bits(status[name])})


def _bits(mask: str) -> Iterator[int]:
    number = int(mask, 16)
    return (bit for bit in range(number.bit_length()) if number >> bit & 1)


def _is_dumpable(pid: int, status: Mapping[str, str]) -> bool:
    """The files of a process belong to its user only if that one may dump it (proc(5)); for root's, see dumpable."""
    user = int(status["Uid"].split()[1])
    if user == 0:
        return is_dumpable(pid)
    try:
        return Path(f"/proc/{pid}/stat").stat().st_uid == user
    except OSError:
        return False


def _may_swap(pid: int) -> bool:
    """Whether no control group above it forbids it: memory.swap.max of 0 (cgroup v2)."""
    line = next((line for line in proc.text(pid, "cgroup").splitlines() if line.startswith("0::")), "0::/")
    group = Path("/sys/fs/cgroup") / line[3:].lstrip("/")
    for place in (group, *group.parents):
        try:
            if (place / "memory.swap.max").read_text(encoding="ascii").strip() == "0":
                return False
        except OSError:
            continue
    return True
