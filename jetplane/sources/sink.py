"""What a session with NATS tells, to whom, and what it leaves behind for the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jetplane.sources.replica import Entry


class Lost(Exception):
    """A session has ended; says why, in words that name no record."""


@dataclass(slots=True)
class Position:
    """How far the sink has been told everything. Kept from session to session, by the thread they run in."""

    stream: str = ""  # when the bucket was made: a bucket made anew is another one
    revision: int = 0
    complete: bool = False
    heard: float = 0.0  # monotonic, when the server last said that nothing was missing
    comparison: int = 0  # the number of the last one


class Sink(Protocol):
    """Who is told. A watch and now and then a comparison bring entries; all but a comparison's come in the order of the
    watch."""

    def reset(self, stream: str) -> None: ...

    def begin(self, number: int, revision: int) -> None: ...

    def watched_entry(self, entry: Entry) -> None: ...

    def compared_entry(self, number: int, entry: Entry) -> None: ...

    def end(self, number: int) -> None: ...

    def connected(self) -> None: ...

    def acknowledged(self, problem: str) -> None: ...

    def has_room(self) -> bool:
        """Whether more may come."""

    async def applied(self) -> bytes:
        """Wait until something is to be acknowledged, and return its newest form."""
