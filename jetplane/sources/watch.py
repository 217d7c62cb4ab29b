"""Tells which files of peers have changed, by inotify(7)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import inotify_simple

from jetplane.errors import PeerError
from jetplane.sources.formats import is_peer_file

_FLAGS = inotify_simple.flags
_CHANGES = _FLAGS.CLOSE_WRITE | _FLAGS.MOVED_TO | _FLAGS.MOVED_FROM | _FLAGS.DELETE | _FLAGS.CREATE


class Watch:
    """Follows one file, or a directory of files, also when it is replaced as a whole. A context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inotify = inotify_simple.INotify(nonblocking=True)
        try:
            self._above = self._inotify.add_watch(path.parent, _CHANGES)
        except OSError as error:
            self._inotify.close()
            raise PeerError(f"{path.parent}: cannot be watched: {error.strerror}") from None
        self._inside = self._watch_inside()

    def fileno(self) -> int:
        """The descriptor that becomes readable on a change."""
        return int(self._inotify.fileno())

    def changed(self) -> frozenset[str] | None:
        """Take what has happened: the names of the files concerned; None: any file may have changed."""
        return self._concerned(self._inotify.read(timeout=0))

    def _concerned(self, events: Iterable[inotify_simple.Event]) -> frozenset[str] | None:
        names, everything = set(), False
        for event in events:
            if event.mask & _FLAGS.Q_OVERFLOW:
                everything = True
            elif event.wd == self._above and event.name == self._path.name:
                self._inside = self._watch_inside()
                names.add(event.name)
                everything = everything or self._inside is not None
            elif event.wd == self._inside and is_peer_file(event.name):
                names.add(event.name)
        return None if everything else frozenset(names)

    def _watch_inside(self) -> int | None:
        if not self._path.is_dir():
            return None
        try:
            return int(self._inotify.add_watch(self._path, _CHANGES))
        except OSError:  # gone again already; its parent tells when it returns
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._inotify.close()
