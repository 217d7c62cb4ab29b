"""Reads the closed lists and constants that the C side declares: drop reasons, counters, maps, `#define`s.

Nothing in Python repeats them. Struct layouts come from the compiler (`dataplane.load`), not from here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

EBPF = next((path for path in (_PACKAGE / "ebpf", _PACKAGE.parent / "ebpf") if path.is_dir()), _PACKAGE / "ebpf")
"""Directory of the C sources: inside an installed package, or beside it in a checkout."""

_ENTRY = re.compile(r'^X\((?P<name>[A-Z0-9_]+),\s*"(?P<text>[^"]*)"\)', re.MULTILINE)
_MAP = re.compile(
    r'^MAP\((?P<name>[a-z0-9_]+),\s*"(?P<kind>[a-z_]+)",.*,\s*(?P<flags>[A-Z0-9_ |]+),\s*"(?P<holds>[^"]*)"\)',
    re.MULTILINE,
)
_FLAGS = {"0": 0, "BPF_F_NO_PREALLOC": 1 << 0, "BPF_F_MMAPABLE": 1 << 10}  # linux/bpf.h
"""The flags that maps have; linux/bpf.h."""

_DEFINE = re.compile(r"^#define[ \t]+(?P<name>[A-Z0-9_]+)[ \t]+(?P<value>0x[0-9a-fA-F]+|\d+)u?l{0,2}\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MapDeclaration:
    """One line of maps.def."""

    name: str
    kind: str  # bcc's table type
    flags: int  # enum of BPF_F_… in linux/bpf.h
    holds: str


@cache
def drop_reasons() -> dict[str, str]:
    """Name → what happened, in counter order."""
    return _entries("drop_reasons.def")


@cache
def counters() -> dict[str, str]:
    """Name → what happened, of the events that end no packet, in counter order after the drop reasons."""
    return _entries("counters.def")


@cache
def quantities() -> dict[str, str]:
    """Name → what it counts, of the sums that figures of class D are made of, in the order of enum quantity."""
    return _entries("quantities.def")


@cache
def maps() -> dict[str, MapDeclaration]:
    """Name → declaration of every map."""
    text = (EBPF / "maps.def").read_text(encoding="utf-8")
    return {
        m["name"]: MapDeclaration(m["name"], m["kind"], _flags(m["flags"]), m["holds"]) for m in _MAP.finditer(text)
    }


@cache
def constants() -> dict[str, int]:
    """Name → value of every plain integer `#define` of abi.h."""
    text = (EBPF / "abi.h").read_text(encoding="utf-8")
    return {m["name"]: int(m["value"], 0) for m in _DEFINE.finditer(text)}


@cache
def enumeration(name: str) -> tuple[str, ...]:
    """The names of an enum of abi.h in the order of their values, which begin with 0."""
    text = (EBPF / "abi.h").read_text(encoding="utf-8")
    body = re.search(rf"enum {name} \{{(?P<body>[^}}]*)\}}", text)
    assert body is not None, name
    return tuple(re.findall(r"[A-Z][A-Z0-9_]*", re.sub(r"/\*.*?\*/", "", body["body"], flags=re.DOTALL)))


def _flags(text: str) -> int:
    return sum(_FLAGS[word] for word in map(str.strip, text.split("|")))


def _entries(file: str) -> dict[str, str]:
    text = (EBPF / file).read_text(encoding="utf-8")
    return {m["name"]: m["text"] for m in _ENTRY.finditer(text)}
