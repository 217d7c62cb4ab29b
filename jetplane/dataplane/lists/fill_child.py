"""Reads the lists and fills the maps in a short-lived process: a million prefixes take hundreds of MiB for a moment."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from jetplane.dataplane import child, layout
from jetplane.dataplane.lists import prefixes, tables
from jetplane.dataplane.lists.write import write
from jetplane.dataplane.maps import Map
from jetplane.errors import ConfigurationError, KernelError


def main() -> int:
    """Read the task, do it, report it."""
    return child.serve(_work)


def _work(task: dict[str, Any]) -> dict[str, Any]:
    record = layout.load(Path(task["layout"]))
    if record is None:
        raise KernelError("no data plane is loaded", hint="start it: jetplane run")
    files = [Path(file) for file in task["files"]]
    made = tables.make(
        chain.from_iterable(prefixes.read(file) for file in files),
        prefixes.bogons() if task["bogons"] else (),
        lines=record.maps["source_lines"].max_entries // 2,
    )
    _refuse_too_many(made.listed, record.maps["source_leaves"].max_entries // 2)
    directory = Path(task["pins"]) / record.layout
    with ExitStack() as stack:
        names = ("halves", "source_words", "source_leaves", "source_filter", "source_lines", "source_prefixes")
        write({name: stack.enter_context(Map(directory, name, record.maps[name])) for name in names}, made)
    return {"listed": made.listed}


def _refuse_too_many(entries: int, room: int) -> None:
    """Both halves lie in one map while they change, so it is twice as large as a list may be."""
    if entries > room:
        raise ConfigurationError(
            f"guard.blocklists: {entries} entries, but there is room for {room}; the lists stay as they were",
            hint="raise guard.max_blocked",
        )


if __name__ == "__main__":
    sys.exit(main())
