"""What has failed, how often, and whether it still does."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from jetplane import backoff
from jetplane.errors import JetplaneError

log = logging.getLogger("jetplane")


class Health:
    """Failures by the work that failed. Messages name no peer, as no JetplaneError does."""

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()  # by class of error, since the start
        self._failures: Counter[str] = Counter()  # in a row, by work
        self._standing: dict[str, str] = {}

    def failed(self, work: str, error: JetplaneError) -> bool:
        """Take note of a failure; true if it says something new."""
        self.errors[type(error).__name__.removesuffix("Error").lower()] += 1
        self._failures[work] += 1
        new = self._standing.get(work) != str(error)
        self._standing[work] = str(error)
        return new

    def succeeded(self, work: str) -> bool:
        """Take note of a success; true if the same work had failed before."""
        del self._failures[work]
        return self._standing.pop(work, None) is not None

    def attempt(self, work_name: str, work: Callable[[], object]) -> JetplaneError | None:
        """Do a piece of work; a failure is logged, counted and shown until the same work succeeds, and returned."""
        try:
            work()
        except JetplaneError as error:
            if self.failed(work_name, error):
                log.error("%s: %s", work_name, error)
            return error
        if self.succeeded(work_name):
            log.info("%s: works again", work_name)
        return None

    def stands(self, work: str) -> str:
        """What fails about this work at this moment, "" if nothing."""
        return self._standing.get(work, "")

    def wait(self, work: str, chance: float) -> float:
        """Seconds until this work should be tried again, 0 if it did not fail."""
        failures = self._failures[work]
        return backoff.delay(failures, chance) if failures else 0.0

    def problems(self) -> tuple[str, ...]:
        """What fails at this moment, one line each."""
        return tuple(f"{work}: {message}" for work, message in sorted(self._standing.items()))
