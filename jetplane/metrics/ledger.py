"""What has been released, so that nothing is released twice and no UTC day costs more than it may.

A release is entered here, and is on the disk, before the figures behind it are looked at. Whatever happens then, the
entry stays: an epoch whose release was interrupted is lost. The file lies in the run directory, so it ends with the
boot, as the aggregates themselves do; an epoch counts only if it was opened at its beginning, and by a clock that does
not run backwards each begins once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from jetplane.errors import JetplaneError
from jetplane.metrics.noise import DAY_S

FILE = "ledger.json"


class NotReleased(JetplaneError):
    """The ledger does not allow a release, or cannot be kept."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What has been spent. Times are Unix seconds, days are counted from 1970-01-01."""

    released_until: Mapping[str, int] = field(default_factory=dict)  # by kind of epoch
    spent: Mapping[int, Fraction] = field(default_factory=dict)  # rho, by day

    def spent_on(self, day: int) -> Fraction:
        """What a day has cost so far."""
        return self.spent.get(day, Fraction(0))


def day_of(start: int) -> int:
    """The UTC day that an epoch belongs to. Epochs are parts of a day."""
    return start // DAY_S


def spend(ledger: Ledger, epoch: str, start: int, length: int, rho: Fraction, limit: Fraction) -> Ledger:
    """The ledger with one more epoch, `start` + `length`, released at a cost of `rho`.

    Raises NotReleased when any part of that time has been released already, or its day would cost more than `limit`.
    """
    if start < ledger.released_until.get(epoch, 0):
        raise NotReleased(f"epoch {epoch} at {start}: that time has been released; it is not released again")
    day = day_of(start)
    total = ledger.spent_on(day) + rho
    if total > limit:
        raise NotReleased(
            f"epoch {epoch} at {start}: its day has spent its privacy budget; nothing is released until it is over",
            hint="it was spent by shorter epochs earlier this day",
        )
    until = {**ledger.released_until, epoch: start + length}
    return _pruned(replace(ledger, released_until=until, spent={**ledger.spent, day: total}))


def _pruned(ledger: Ledger) -> Ledger:
    """Without days of which nothing can be released any more."""
    first = day_of(min(ledger.released_until.values())) - 1
    return replace(ledger, spent={day: rho for day, rho in ledger.spent.items() if day >= first})


def load(path: Path) -> Ledger:
    """Read the ledger; an empty one when there is none. Raises NotReleased for one that cannot be understood."""
    try:
        tree = json.loads(path.read_text(encoding="ascii"))
        return Ledger(
            {str(name): int(until) for name, until in tree["released_until"].items()},
            {int(day): Fraction(rho) for day, rho in tree["spent"].items()},
        )
    except FileNotFoundError:
        return Ledger()
    except OSError as error:
        raise NotReleased(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        raise NotReleased(
            f"{path}: is no ledger; nothing is released",
            hint="a day after it was last written it may be removed: then no day is spent twice",
        ) from None


def save(path: Path, ledger: Ledger) -> None:
    """Replace the ledger, mode 0600, so that it is whole on the disk when this returns. Raises NotReleased."""
    tree = {
        "released_until": dict(ledger.released_until),
        "spent": {str(day): str(rho) for day, rho in ledger.spent.items()},
    }
    try:
        write_durably(path, json.dumps(tree).encode("ascii"))
    except OSError as error:
        raise NotReleased(f"{path}: cannot be written: {error.strerror}; nothing is released") from None


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file of mode 0600: afterwards the old or the new content is there, whatever fails. Raises OSError."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
