"""Finds the line of a file of TOML in which a value begins; what tomllib reads does not say."""

from __future__ import annotations

import re
import tomllib
from typing import Any

_CLOSINGS = ("", "]", "]]")
"""What may be missing at the end of a line: arrays go on over lines, inline tables do not."""


def line_of(text: str, key: str) -> int:
    """The line, counted from 1, with the first of a value such as `relay.to[1].exit`; 0 when it stands nowhere."""
    lines = text.splitlines()
    for number in range(1, len(lines) + 1):
        begun = "\n".join(lines[:number])
        if any(value_at(_read(f"{begun}\n{closing}"), key) is not None for closing in _CLOSINGS):
            return number
    return 0


def value_at(tree: Any, key: str) -> Any:
    """The value at a key in decoded TOML; None when it stands nowhere."""
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+|\.\.\.)\]", key):
        try:
            tree = tree[name] if name else tree[int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return tree


def _read(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
