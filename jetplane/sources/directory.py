"""Peers from a file, or from every `*.toml`, `*.json` and `*.jsonl` file of a directory, followed as they change.

A file that cannot be read, is half-written or is none of its format keeps the records it last had; a record that is
wrong is refused alone. Only files that changed are read again.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from jetplane.config import Config
from jetplane.errors import PeerError
from jetplane.model import Peer, PublicKey
from jetplane.sources import files, formats, whole
from jetplane.sources.interface import Change, Refusal, Refusals
from jetplane.sources.judge import Judge, Reading
from jetplane.sources.records import Record, rates, to_peer
from jetplane.sources.watch import Watch

_POSITIONS = 1 << 32  # a rank is the number of the file times this, plus the position: one int for each record


class Directory:
    """The source behind `peers.source = "files"`. Raises PeerError at once when the path cannot be watched."""

    def __init__(self, config: Config, own_keys: frozenset[PublicKey]) -> None:
        self._path = config.peers.path
        self._rates = rates(config)
        self._watch = Watch(self._path)
        self._nudge = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # set: the first look is due
        self._ready = select.epoll()
        self._ready.register(self._watch, select.EPOLLIN)
        self._ready.register(self._nudge, select.EPOLLIN)
        self._judge = Judge(config, own_keys, self._place)
        self._order: list[Path] = []  # number → file, sorted
        self._slots: dict[Path, int] = {}  # what the judge holds of each file has positions below this
        self._broken: dict[Path, str] = {}  # files, or the path itself, that cannot be used now
        self._unread: set[Path] | None = None  # to be read; None: all
        self._told = Refusals()
        self._revision = 0

    def fileno(self) -> int:
        """The descriptor of an epoll(7) instance over all that this source waits for."""
        return self._ready.fileno()

    def take(self) -> Change | None:
        """What is new; see Source."""
        self._quieten()
        self._look()
        if not self._revision:
            return self._first()
        peers, refused = self._judge.settle(), self._refusals()
        if not peers and refused == self._told:
            return None
        return self._change(whole=False, peers=peers, refused=refused)

    def applied(self, revision: int) -> None:
        """Nobody asks."""

    def problem(self) -> str:
        """The first thing that keeps a file from being read."""
        for broken in self._broken.values():
            return f"{broken}; the peers stay as they were" if self._revision else f"{broken}; the peers are left alone"
        return ""

    def follow(self, config: Config, own_keys: frozenset[PublicKey]) -> None:
        """Judge by other terms, and read every file again: this is what a reload means."""
        self._rates = rates(config)
        self._judge.follow(config, own_keys)
        self._unread = None
        os.eventfd_write(self._nudge, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ready.close()
        os.close(self._nudge)
        self._watch.__exit__()

    def _first(self) -> Change | None:
        """All there is, once every file has been read; peers of one that has not been are unknown, not gone."""
        if self._broken:
            return None
        self._judge.settle()
        return self._change(whole=True, peers=self._judge.in_force(), refused=self._refusals())

    def _change(self, *, whole: bool, peers: Mapping[PublicKey, Peer | None], refused: Refusals) -> Change:
        self._revision += 1
        self._told = refused
        return Change(whole, peers, self._revision, refused)

    def _quieten(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._nudge)
        names = self._watch.changed()
        if names is None:
            self._unread = None
        elif self._unread is not None:
            self._unread |= {self._path / name if self._path.is_dir() else self._path for name in names}

    def _look(self) -> None:
        """Read what has changed; forget what is no longer there."""
        try:
            present = files.paths(self._path)
        except PeerError as error:
            self._broken[self._path] = str(error)
            return
        self._broken.pop(self._path, None)
        self._number(present)
        for file in present:
            if self._unread is None or file in self._unread:
                self._read(file)
        for file in (self._slots.keys() | self._broken.keys()) - set(present):
            self._hold(file, ())
            del self._slots[file]
            self._broken.pop(file, None)
        self._unread = set()

    def _read(self, file: Path) -> None:
        try:
            items = formats.decode(file, whole.read(file))
        except PeerError as error:
            self._broken[file] = str(error)
        else:
            self._broken.pop(file, None)
            self._hold(file, items)

    def _hold(self, file: Path, items: Iterable[tuple[int, Record | str]]) -> None:
        """Have the judge hold exactly these records of the file."""
        first, before = self._order.index(file) * _POSITIONS, self._slots.get(file, 0)
        end = 0
        for index, item in items:
            for empty in range(end, min(index, before)):
                self._judge.drop(first + empty)
            rank = first + index
            self._judge.put(rank, rank, self._reading(item))
            end = index + 1
        for index in range(end, before):
            self._judge.drop(first + index)
        self._slots[file] = end

    def _number(self, present: list[Path]) -> None:
        """Number the files in their order; those that are gone keep their place until their records are."""
        order = sorted({*present, *self._slots})
        number = {file: at for at, file in enumerate(order)}
        new = [number.get(file, at) for at, file in enumerate(self._order)]  # one that is not there has no records
        if new != list(range(len(new))):
            self._judge.rename(lambda rank: new[rank // _POSITIONS] * _POSITIONS + rank % _POSITIONS)
        self._order = order

    def _place(self, rank: int) -> str:
        return formats.place(self._order[rank // _POSITIONS], rank % _POSITIONS)

    def _reading(self, item: Record | str) -> Reading:
        if isinstance(item, str):
            return Reading(None, reason=item)
        try:
            return Reading(to_peer(PublicKey.parse(item.public_key), item, self._rates), item.plan)
        except PeerError as error:
            return Reading(None, reason=str(error))

    def _refusals(self) -> Refusals:
        """Files first: they hold more than one record."""
        judged = self._judge.refusals()
        if not self._broken:
            return judged
        broken = tuple(
            Refusal("file", str(file), reason.removeprefix(f"{file}: ")) for file, reason in self._broken.items()
        )
        return Refusals({**judged.counts, "file": len(broken)}, broken + judged.first)
