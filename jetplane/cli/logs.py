"""Logging: jetplane's own events in full, and of what libraries log only whose and where.

A library's message may quote what it works on, at any level: pyroute2 writes out every netlink message when it debugs,
asyncio the text of an exception that nobody has taken.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

_LEFT_OUT = "its words are left out, they may name somebody"


class OwnWords(logging.Filter):
    """Takes the words out of records that are not jetplane's; those below a warning do not pass at all."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes. It is changed in place, as logging allows."""
        if record.name.partition(".")[0] == "jetplane":
            return True
        record.msg = f"{record.name}: something at {record.filename}:{record.lineno}; {_LEFT_OUT}"
        record.args, record.exc_info, record.exc_text, record.stack_info = (), None, None, None
        return record.levelno >= logging.WARNING


def handler(stream: TextIO) -> logging.Handler:
    """Writes a line for each event."""
    made = logging.StreamHandler(stream)
    made.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    made.addFilter(OwnWords())
    return made


def start() -> None:
    """Log to standard error."""
    logging.basicConfig(level=logging.INFO, handlers=[handler(sys.stderr)])
