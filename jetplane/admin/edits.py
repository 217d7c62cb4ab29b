"""Changes of the peers' files, made by a short-lived child so that the controller's loop never waits for a disk.

What goes in and comes out passes through memory files: no argument, no pipe that could fill up, and the kernel has the
bytes back when they are closed.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from jetplane.admin.messages import Refused
from jetplane.errors import JetplaneError

Kind = Literal["add", "remove", "set", "forget"]
Done = Callable[[Mapping[str, Any]], None]
Failed = Callable[[JetplaneError], None]
Later = Callable[[float, str, Callable[[], object]], None]
"""Schedule.once."""

MAX_EDITS: Final = 4
PATIENCE_S: Final = 120.0


@dataclass(slots=True, eq=False)
class _Edit:
    process: subprocess.Popen[bytes]
    pidfd: int
    answer: int  # memory file
    done: Done
    failed: Failed


class Edits:
    """Those that are under way. Used by the controller's thread only."""

    def __init__(self, selector: selectors.BaseSelector, later: Later) -> None:
        self._selector, self._later = selector, later
        self._running: dict[int, _Edit] = {}

    def start(self, kind: Kind, config: Path, body: bytes, done: Done, failed: Failed) -> None:
        """Start a change; one of `done` and `failed` is called when it is over. Raises Refused when there are many."""
        if len(self._running) >= MAX_EDITS:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "busy", "other changes are under way", hint="try again")
        question, answer = (os.memfd_create(name, os.MFD_CLOEXEC) for name in ("question", "answer"))
        try:
            written = 0
            while written < len(body):
                written += os.write(question, body[written:])
            os.lseek(question, 0, os.SEEK_SET)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "jetplane.admin.edit", kind, str(config)],
                env={"PYTHONPATH": str(Path(__file__).parents[2])},
                stdin=question,
                stdout=answer,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            os.close(answer)
            raise JetplaneError(f"cannot start a process to change files: {error.strerror}") from None
        finally:
            os.close(question)
        edit = _Edit(process, os.pidfd_open(process.pid), answer, done, failed)
        self._running[process.pid] = edit
        self._selector.register(edit.pidfd, selectors.EVENT_READ, lambda: self._finish(edit))
        pid = process.pid  # the timer outlives the edit, and must not keep what it holds
        self._later(PATIENCE_S, f"edit {pid}", lambda: self._give_up(pid))

    def close(self) -> None:
        """Wait for those that are under way: a change of a file is never cut short."""
        for edit in list(self._running.values()):
            edit.process.wait()
            self._end(edit)

    def _finish(self, edit: _Edit) -> None:
        edit.process.wait()
        raw = os.pread(edit.answer, os.fstat(edit.answer).st_size, 0)
        self._end(edit)
        try:
            result = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            edit.failed(JetplaneError(f"the process that changes files ended with status {edit.process.returncode}"))
            return
        if problem := result.get("error"):
            status = HTTPStatus.NOT_FOUND if problem["code"] == "unknown_peer" else HTTPStatus.CONFLICT
            edit.failed(Refused(status, problem["code"], problem["message"], hint=problem["hint"]))
        else:
            edit.done(result)

    def _give_up(self, pid: int) -> None:
        if pid in self._running:
            self._running[pid].process.kill()

    def _end(self, edit: _Edit) -> None:
        del self._running[edit.process.pid]
        self._selector.unregister(edit.pidfd)
        os.close(edit.pidfd)
        os.close(edit.answer)
