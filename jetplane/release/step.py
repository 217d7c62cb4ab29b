"""The release step: a short-lived process that releases one epoch and is gone. `keeper` starts it.

The order is what makes it safe to be killed at any point: the ledger is told first, and on the disk, that the epoch is
spent; only then are the sums looked at and noise is drawn. A second run finds the epoch spent and releases nothing, so
no epoch is ever released with two different noises; one whose step was interrupted is lost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from jetplane.dataplane import child, statistics
from jetplane.errors import JetplaneError, KernelError
from jetplane.metrics import ledger, released
from jetplane.metrics.epochs import NUMBERS
from jetplane.metrics.ledger import NotReleased
from jetplane.metrics.noise import QUANTITIES, EpochName, release_rho
from jetplane.metrics.released import Release
from jetplane.privacy.process import forbid_core_dumps
from jetplane.release.sampler import noisy


@dataclass(frozen=True, slots=True)
class Task:
    """What to release, and by which public terms."""

    run_directory: str
    epoch: EpochName
    number: int  # the kernel's
    start: int  # Unix seconds
    length: int  # seconds
    clips: Mapping[str, int]  # by quantity
    left_out: tuple[str, ...]  # quantities that this node does not have
    limit: str  # rho that the day may cost, as a fraction


class Sums(Protocol):
    """What the step needs of the data plane's statistics."""

    def number(self, epoch: EpochName) -> int:
        """The number of the running epoch."""

    def sums(self, epoch: EpochName, number: int) -> dict[str, int]:
        """Quantity → sum, of an epoch that has ended."""

    def clear(self, epoch: EpochName, number: int) -> None:
        """Forget them."""


Draw = Callable[..., int]
"""`sampler.noisy`."""


def release(task: Task, sums: Sums, draw: Draw = noisy) -> None:
    """Release one epoch, or raise JetplaneError, which says no figure."""
    directory = Path(task.run_directory)
    if sums.number(task.epoch) != (task.number + 1) % NUMBERS:
        raise NotReleased(f"epoch {task.epoch} at {task.start}: the kernel counts another one; it is skipped")
    book = directory / ledger.FILE
    after = ledger.spend(
        ledger.load(book), task.epoch, task.start, task.length, release_rho(task.epoch), Fraction(task.limit)
    )
    ledger.save(book, after)
    figures = {
        name: draw(value, sigma=QUANTITIES[name].sigma(task.clips[name]), clip=task.clips[name])
        for name, value in sums.sums(task.epoch, task.number).items()
        if name not in task.left_out
    }
    file = directory / released.FILE
    try:
        before = released.load(file)
    except JetplaneError:
        before = {}  # whatever stood there is replaced
    try:
        released.save(file, {**before, task.epoch: Release(task.start, task.length, dict(task.clips), figures)})
    except OSError as error:
        raise NotReleased(f"{file}: cannot be written: {error.strerror}; this epoch is skipped") from None
    sums.clear(task.epoch, task.number)


def _work(given: dict[str, Any]) -> dict[str, Any]:
    try:
        forbid_core_dumps()  # or no figure is better than a leak
        task = Task(**{name: given[name] for name in Task.__dataclass_fields__})
        with statistics.opened(Path(task.run_directory)) as opened:
            release(task, opened)
    except JetplaneError as error:
        number = error.errno if isinstance(error, KernelError) else 0
        return {"failed": str(error), "hint": error.hint, "errno": number}
    except Exception as error:  # its message might quote a figure
        return {"failed": f"{type(error).__name__}; this epoch is skipped", "hint": "", "errno": 0}
    return {"failed": ""}


if __name__ == "__main__":
    sys.exit(child.serve(_work))
