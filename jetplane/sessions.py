"""How many sessions each tunnel carries, asked of short-lived processes without ever waiting for one."""

from __future__ import annotations

import os
import selectors
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from jetplane.wireguard.child import start

Counts = Mapping[str, int | None]
"""Tunnel → sessions; None: it could not be asked."""

PATIENCE_S: Final = 60.0
Later = Callable[[float, str, Callable[[], object]], None]
"""Schedule.once."""


class Sessions:
    """Counts on demand; whoever asks while a count is under way gets the next one with all others who do."""

    def __init__(self, selector: selectors.BaseSelector, later: Later, kind: str) -> None:
        self._selector, self._later, self._kind = selector, later, kind
        self._children: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
        self._counts: dict[str, int | None] = {}
        self._asked: list[tuple[tuple[str, ...], Callable[[Counts], None]]] = []
        self._current: list[Callable[[Counts], None]] = []

    def ask(self, tunnels: Iterable[str], answer: Callable[[Counts], None]) -> None:
        """Call `answer` when they have been counted; at once where there is no WireGuard."""
        names = tuple(tunnels)
        if self._kind == "veth":
            answer(dict.fromkeys(names))
            return
        self._asked.append((names, answer))
        if not self._children:
            self._begin()

    def close(self) -> None:
        """End the counts that are under way."""
        self._asked.clear()
        self._current.clear()
        for name, (process, _) in list(self._children.items()):
            process.kill()
            self._finish(name)

    def _begin(self) -> None:
        names = {name for asked, _ in self._asked for name in asked}
        self._current, self._asked = [answer for _, answer in self._asked], []
        self._counts = dict.fromkeys(names)
        for name in names:
            self._start(name)
        self._later(PATIENCE_S, "sessions", self._give_up)
        self._tell()

    def _start(self, name: str) -> None:
        try:
            # An integer fits into the pipe, so the child never waits for its reader.
            process = start("jetplane.wireguard.sessions", self._kind, name, stdout=subprocess.PIPE)
        except OSError:
            return
        assert process.stdout is not None
        pidfd = os.pidfd_open(process.pid)
        self._children[name] = process, pidfd
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._finish(name))

    def _give_up(self) -> None:
        for process, _ in self._children.values():
            process.kill()

    def _finish(self, name: str) -> None:
        process, pidfd = self._children.pop(name)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        said, _ = process.communicate()
        try:
            number = int(said)
        except ValueError:
            number = -1
        self._counts[name] = number if number >= 0 else None
        self._tell()

    def _tell(self) -> None:
        if self._children:
            return
        answers, self._current = self._current, []
        for answer in answers:
            answer(dict(self._counts))
        if self._asked and not self._children:
            self._begin()
