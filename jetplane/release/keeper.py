"""Opens and closes epochs at their time, and has each that was whole released, one at a time, without ever waiting."""

from __future__ import annotations

import json
import logging
import os
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import jetplane
from jetplane.config import Config
from jetplane.dataplane.statistics import Statistics
from jetplane.errors import JetplaneError
from jetplane.health import Health
from jetplane.metrics import epochs, noise
from jetplane.metrics.epochs import NUMBERS, Clocks, Opening
from jetplane.metrics.noise import EpochName
from jetplane.release import openings, terms
from jetplane.release.openings import FILE, Terms
from jetplane.release.step import Task

MOST_WAIT_S: Final = 10.0
"""The clock may be set at any time: so often it is looked at."""
PATIENCE_S: Final = 60.0

log = logging.getLogger("jetplane")


class Keeper:
    """Keeps the epochs of one node. `released` is called when new figures are there."""

    def __init__(
        self,
        config: Config,
        selector: selectors.BaseSelector,
        later: Callable[[float, str, Callable[[], object]], None],
        health: Health,
        released: Callable[[], None],
    ) -> None:
        self._config, self._selector, self._later, self._health = config, selector, later, health
        self._released = released
        self._terms: Terms | None = None
        self._open: dict[EpochName, Opening] = {}
        self._due: list[tuple[EpochName, Opening]] = []
        self._step: tuple[EpochName, Opening, subprocess.Popen[bytes], int] | None = None
        self.skipped: Counter[str] = Counter()  # epochs that were not released, since the start

    def look(self, statistics: Statistics) -> float:
        """Close what is over and open what follows; return the seconds until the next look. Raises JetplaneError."""
        self._remember(statistics)
        waits = [self._look_at(name, length, statistics) for name, length in terms.lengths(self._config).items()]
        self._start()
        return min(*waits, MOST_WAIT_S)

    def running(self, name: EpochName) -> Opening | None:
        """The epoch that is open, None when none is."""
        return self._open.get(name)

    def close(self) -> None:
        """End a step that is under way: its epoch is lost. The open epochs go on."""
        self._due.clear()
        if self._step:
            self._step[2].kill()
            self._finish()

    def _remember(self, statistics: Statistics) -> None:
        """What is open, as it was written down; with other maps or terms, nothing is."""
        now = Terms(openings.boot(), statistics.identity, terms.clips(self._config))
        if now != self._terms:
            known = openings.load(self._file, now)
            lengths = terms.lengths(self._config)
            self._open = {n: known[n] for n in lengths if n in known and known[n].length == lengths[n]}
            self._terms = now

    @property
    def _file(self) -> Path:
        return self._config.run_directory / FILE

    def _look_at(self, name: EpochName, length: int, statistics: Statistics) -> float:
        opening, number = self._open.get(name), statistics.number(name)
        now = Clocks.now()
        if opening is None or opening.number != number:
            self._turn(name, epochs.open_at(now, length, (number + 1) % NUMBERS), statistics)
        elif epochs.is_over(opening, now):
            reason = epochs.why_not_whole(opening, now) or self._lacks_looks(name, opening, statistics)
            self._turn(name, epochs.open_at(now, length, (number + 1) % NUMBERS), statistics)
            if reason:
                self._skip(name, opening, reason)
            else:
                self._due.append((name, opening))
        return epochs.wait(self._open[name], Clocks.now())

    def _lacks_looks(self, name: EpochName, opening: Opening, statistics: Statistics) -> str:
        """A sum of handshakes of which looks are missing would be no one's figure."""
        if name != "volume" or "handshakes" in terms.left_out(self._config):
            return ""
        slots, looks = noise.handshake_slots(opening.length), statistics.handshakes(opening.number).looks
        return "" if looks >= slots - slots // 100 else f"only {looks} of {slots} looks at handshakes were made"

    def _turn(self, name: EpochName, opening: Opening, statistics: Statistics) -> None:
        """The sums of the epoch before the last give way: a step that may still read them ends first."""
        for due in [d for d in self._due if d[0] == name]:
            self._due.remove(due)
            self._skip(*due, "its release came too late")
        if self._step and self._step[0] == name:
            self._step[2].kill()
            self._finish()
        assert self._terms is not None
        openings.save(self._file, self._terms, {**self._open, name: opening})
        statistics.turn(name, opening.number)
        self._open[name] = opening

    def _skip(self, name: EpochName, opening: Opening, reason: str) -> None:
        self.skipped[name] += 1
        log.warning("epoch %s at %d is not released: %s", name, opening.start, reason)

    def _start(self) -> None:
        if self._step or not self._due:
            return
        name, opening = self._due.pop(0)
        task = Task(
            run_directory=str(self._config.run_directory),
            epoch=name,
            number=opening.number,
            start=opening.start,
            length=opening.length,
            clips=terms.clips(self._config),
            left_out=terms.left_out(self._config),
            limit=str(terms.limit(self._config)),
        )
        try:
            process = _begin(task)
        except OSError as error:
            self._skip(name, opening, f"its release cannot be started: {error.strerror}")
            return
        pidfd = os.pidfd_open(process.pid)
        self._step = name, opening, process, pidfd
        self._selector.register(pidfd, selectors.EVENT_READ, self._finish)
        self._later(PATIENCE_S, "release", self._give_up)

    def _give_up(self) -> None:
        if self._step:
            self._step[2].kill()

    def _finish(self) -> None:
        assert self._step is not None
        (name, opening, process, pidfd), self._step = self._step, None
        self._selector.unregister(pidfd)
        os.close(pidfd)
        said, _ = process.communicate()
        try:
            failed = json.loads(said)["failed"]
        except (ValueError, KeyError, TypeError):
            failed = f"its release ended with status {process.returncode}"
        if failed:
            self._skip(name, opening, failed)
            self._health.failed("release", JetplaneError(failed))
        else:
            self._health.succeeded("release")
            self._released()
        self._start()


def _begin(task: Task) -> subprocess.Popen[bytes]:
    """Start the release step. Raises OSError."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "jetplane.release.step"],
        env={"PYTHONPATH": str(Path(jetplane.__file__).parents[1]), "LC_ALL": "C.UTF-8"},
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin
    with process.stdin as told:  # less than a pipe holds
        told.write(json.dumps({**asdict(task), "parent": os.getpid()}).encode())
    process.stdin = None
    return process
