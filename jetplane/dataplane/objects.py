"""What the compiler makes of the programs, apart from any kernel, and where it is kept.

Compiling takes seconds, so an object outlives the run directory where there is a cache: CACHE_DIRECTORY, which
systemd sets for a unit with CacheDirectory=. Its name is a hash of all that it is made of: of node.h only what its
file asks for, so that what the guard alone must know does not have the translation compiled anew. It holds constants
of the node's configuration and nothing about subscribers.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetplane.dataplane.specialise import text_hash
from jetplane.dataplane.toolchain import INCLUDE


@dataclass(frozen=True, slots=True)
class Table:
    """A map as it is declared; sizes in bytes, of one CPU's value."""

    type: int  # enum bpf_map_type
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    key: Any  # bcc's description, see layout.py
    value: Any


@dataclass(frozen=True, slots=True)
class Code:
    """A program: instructions in hexadecimal, 16 digits each, those that load a map without its descriptor."""

    instructions: str
    maps: Mapping[str, Sequence[int]]  # name → numbers of the instructions that load it


@dataclass(frozen=True, slots=True)
class Object:
    """All maps and programs of one file and configuration, by name."""

    tables: Mapping[str, Table]
    programs: Mapping[str, Code]

    @classmethod
    def of(cls, tree: Mapping[str, Mapping[str, Any]]) -> Object:
        """From what `asdict` gives, through JSON."""
        tables = {name: Table(**fields) for name, fields in tree["tables"].items()}
        return cls(tables, {name: Code(**fields) for name, fields in tree["programs"].items()})


SUFFIXES = (".c", ".h", ".def")
"""Of the files that programs are made of."""


def name(header: str, source: Path, programs: Iterable[str], tables: Iterable[str], bcc_version: str) -> str:
    """Name the object that a file would compile to. Where its maps are pinned does not matter: code has their names."""
    texts = _with_included(source)
    version = INCLUDE / "linux/version.h"
    return text_hash(
        bcc_version,
        version.read_text(encoding="utf-8") if version.is_file() else "",
        platform.machine(),
        *(line for line in asked_for(header, texts.values()) if not line.startswith("#define PIN_ROOT ")),
        *programs,
        *tables,
        *(part for text in texts.items() for part in text),
    )


def asked_for(header: str, texts: Iterable[str]) -> list[str]:
    """The lines of node.h without the constants whose name is nowhere in these texts, nor in node.h itself."""
    lines = [(line, _DEFINE.match(line)) for line in header.splitlines()]
    bodies = (line[found.end() :] if found else line for line, found in lines)
    words = {word for text in (*texts, *bodies) for word in _WORD.findall(text)}
    return [line for line, found in lines if found is None or found["name"] in words]


def _with_included(source: Path) -> dict[str, str]:
    """Text by name of a file and what it includes of its directory; what is not there, or fails, the compiler tells."""
    texts: dict[str, str] = {}
    wanted = [source]
    while wanted:
        path = wanted.pop()
        if path.name not in texts and path.is_file():
            texts[path.name] = path.read_text(encoding="utf-8")
            wanted += [source.with_name(included) for included in _INCLUDE.findall(texts[path.name])]
    return dict(sorted(texts.items()))


_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"/]+)"', re.MULTILINE)
_DEFINE = re.compile(r"#define (?P<name>\w+)")
_WORD = re.compile(r"\w+")


def find(named: str) -> Object | None:
    """The object of this name, if there is a cache that has it and nobody else could have written it."""
    cache = _cache()
    if cache is None:
        return None
    try:
        if any(_is_anothers(path) for path in (cache, cache / named)):
            return None
        return Object.of(json.loads((cache / named).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def keep(named: str, made: Object) -> None:
    """Keep an object where there is a cache that can be written. It is there whole or not at all."""
    cache = _cache()
    if cache is None:
        return
    fresh = cache / f"{named}.{os.getpid()}"
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.write_text(json.dumps(asdict(made)) + "\n", encoding="utf-8")
        fresh.replace(cache / named)
    except OSError:
        with suppress(OSError):
            fresh.unlink()


def _cache() -> Path | None:
    directory = os.environ.get("CACHE_DIRECTORY")
    return Path(directory, "objects") if directory else None


def _is_anothers(path: Path) -> bool:
    status = path.stat()
    return status.st_uid != os.geteuid() or bool(status.st_mode & 0o022)
