"""Reads what the node has written where its output goes: a file, or the journal of systemd."""

from __future__ import annotations

import os
import stat
import subprocess
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from jetplane.audit import proc
from jetplane.audit.limits import Limits
from jetplane.privacy.facts import CONTROLLER, Log
from jetplane.privacy.traces import kinds

_UNIT = "jetplane.service"
_JOURNAL_S = 20.0


def gather(found: Mapping[int, str], known: Collection[str], limits: Limits) -> tuple[Log, ...]:
    """The logs of the controller's output, and of everything it has started: they share it."""
    controller = next((pid for pid, role in found.items() if role == CONTROLLER), None)
    if controller is None:
        return ()
    logs: dict[str, list[str]] = {}
    for name, number in {name: number for number, name in proc.descriptors(controller) if number in (1, 2)}.items():
        if name.startswith("socket:"):
            logs["the journal"] = _journal()
        elif name.startswith("/"):
            logs |= {Path(name).name: lines for lines in _end_of(Path(f"/proc/{controller}/fd/{number}"), limits)}
    return tuple(_log(name, lines, known) for name, lines in logs.items())


def _log(name: str, text: Iterable[str], known: Collection[str]) -> Log:
    found: Counter[str] = Counter()
    lines = 0
    for line in text:
        lines += 1
        found.update(kinds(line, known=known))
    return Log(name, lines, dict(found))


def _end_of(path: Path, limits: Limits) -> Iterator[list[str]]:
    """The lines of a regular file, at most so many bytes of its end; nothing for a terminal or a pipe."""
    with suppress(OSError):
        if not stat.S_ISREG(path.stat().st_mode):
            return
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limits.log_bytes))
            yield file.read().decode("utf-8", "replace").splitlines()


def _journal() -> list[str]:
    """What systemd keeps of the unit since the machine was booted."""
    command = ["journalctl", "--unit", _UNIT, "--boot", "--output", "cat", "--no-pager", "--quiet"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_JOURNAL_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.decode("utf-8", "replace").splitlines()
