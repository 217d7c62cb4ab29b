"""Named timers for a loop that also waits for other things."""

from __future__ import annotations

import sched
import time
from collections.abc import Callable


class Schedule:
    """At most one pending call a name: setting it again moves it."""

    def __init__(self) -> None:
        self._timers = sched.scheduler(time.monotonic)
        self._pending: dict[str, sched.Event] = {}

    def once(self, seconds: float, name: str, work: Callable[[], object]) -> None:
        """Call `work` in so many seconds."""
        if name in self._pending:
            self._timers.cancel(self._pending[name])

        def call() -> None:
            del self._pending[name]
            work()

        self._pending[name] = self._timers.enter(seconds, 0, call)

    def every(self, seconds: float, name: str, work: Callable[[], object]) -> None:
        """Call `work` again and again, so many seconds after it last returned."""

        def call() -> None:
            work()
            self.every(seconds, name, work)

        self.once(seconds, name, call)

    def run(self) -> float | None:
        """Make the calls that are due and return the seconds until the next one, None if there is none."""
        return self._timers.run(blocking=False)
