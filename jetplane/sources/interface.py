"""What a source of peers looks like to the controller, whatever stands behind it.

A source judges its records one by one: what cannot be used is refused and told, and stops no other record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol, Self, get_args

from jetplane.config import Config
from jetplane.model import Peer, PublicKey

RefusalKind = Literal["file", "record", "plan", "address", "own_key", "duplicate", "full"]
"""Why: a whole file is unreadable; a record is malformed, names no plan, has an address that no tunnel can carry,
has the node's own key, claims what an earlier record has, or exceeds peers.max."""

REFUSAL_KINDS: tuple[RefusalKind, ...] = get_args(RefusalKind)
SHOWN = 100
"""How many refusals are told one by one; all are counted."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One record, or one file, that is not applied. Names a position or a keyed hash, never a key or an address."""

    kind: RefusalKind
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Refusals:
    """Everything that stands refused at this moment."""

    counts: Mapping[RefusalKind, int] = field(default_factory=lambda: MappingProxyType({}))  # all; absent: none
    first: tuple[Refusal, ...] = ()  # at most SHOWN, in the order of the source

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Change:
    """What a source has to say. `refused` is all that stands refused now, in a whole and in a partial change alike."""

    whole: bool  # True: `peers` is everything that is wanted; False: only what differs from before
    peers: Mapping[PublicKey, Peer | None]  # None: gone
    revision: int  # grows; `applied` takes it back when all of this is in force
    refused: Refusals = Refusals()

    def __repr__(self) -> str:
        return f"Change(whole={self.whole}, {len(self.peers)} peers, revision={self.revision})"


class Source(Protocol):
    """Where wanted peers come from. A context manager; used by one thread."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def fileno(self) -> int:
        """A descriptor that is readable when there may be something to take."""

    def take(self) -> Change | None:
        """What is new; None: nothing. The first change is whole. Does not wait, and raises no JetplaneError.

        Until the first change has come the wanted peers are unknown: what the node holds is left alone. Peers that
        have expired are among the wanted: the source does not look at the clock, so that all nodes judge alike.
        """

    def applied(self, revision: int) -> None:
        """Everything up to this revision is in force on this node."""

    def problem(self) -> str:
        """What keeps the source from knowing better, "" while it is well. Peers stay as they are meanwhile."""

    def follow(self, config: Config, own_keys: frozenset[PublicKey]) -> None:
        """Judge by a changed configuration, or by changed public keys of the node itself.

        What follows from it comes by `take`. Settings that say where peers come from cannot change.
        """


def refusals_problem(refused: Refusals) -> str:
    """The line that health shows, "" when nothing is refused."""
    if not refused.total:
        return ""
    one = refused.total == 1
    more = f" and {refused.total - 1} more" if not one else ""
    return f"{refused.first[0]}{more}: not applied" if refused.first else f"{refused.total} not applied"
