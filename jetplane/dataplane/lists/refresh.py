"""Keeps the maps in line with the files: reads them when they have changed, and only then."""

from __future__ import annotations

from pathlib import Path

from jetplane.config import Guard
from jetplane.dataplane import child

_TIMEOUT_S = 120
_Stamp = tuple[object, ...]


class Refresher:
    """Remembers which state of the files which maps hold. `refresh` is cheap when nothing changed."""

    def __init__(self, guard: Guard, *, pins: Path, layout: Path) -> None:
        self._guard = guard
        self._pins = pins
        self._layout = layout
        self._filled: _Stamp = ()

    def refresh(self, maps: int) -> bool:
        """Fill the maps if they hold another state of the files; True when they were filled. `maps` tells these maps
        from those that had their name before: the kernel's id of one of them.

        Raises ConfigurationError naming file and line, or KernelError; the lists then stay as they were.
        """
        if not (self._guard.bogons or self._guard.blocklists):
            return False
        wanted: _Stamp = (maps, *map(_stamp, self._guard.blocklists))
        if wanted == self._filled:
            return False
        child.ask(
            "jetplane.dataplane.lists.fill_child",
            {
                "files": [str(file) for file in self._guard.blocklists],
                "bogons": self._guard.bogons,
                "layout": str(self._layout),
                "pins": str(self._pins),
            },
            timeout=_TIMEOUT_S,
        )
        self._filled = wanted  # as it was before reading: a change meanwhile is read the next time
        return True


def _stamp(file: Path) -> _Stamp:
    """What differs when a file was replaced or written to; one that is missing is for the reader to say."""
    try:
        found = file.stat()
    except OSError:
        return (str(file),)
    return (str(file), found.st_ino, found.st_mtime_ns, found.st_size)
