"""Progress of long work, on standard error so that what is printed stays clean; nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")


class Advance(Protocol):
    """Tells how far the work is."""

    def __call__(self, done: int, total: int | None = None, /) -> None: ...


@contextmanager
def shown(what: str, total: int | None = None, *, quiet: bool = False) -> Iterator[Advance]:
    """Show a bar for the work inside; `total` None: its end is not known yet. `quiet`: with --json."""
    console = Console(file=sys.stderr, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)

        def advance(done: int, total: int | None = None, /) -> None:
            progress.update(task, completed=done, total=total)  # None leaves it as it is

        yield advance


def track(items: Iterable[T], what: str, total: int, *, quiet: bool = False) -> Iterator[T]:
    """Yield the items, and show how many have been taken."""
    with shown(what, total, quiet=quiet) as advance:
        for number, item in enumerate(items, 1):
            yield item
            advance(number)
