"""What the compiler makes of the programs, apart from any kernel, and where it is kept.

Compiling takes seconds, so an object outlives the run directory where there is a cache: CACHE_DIRECTORY, which
systemd sets for a unit with CacheDirectory=. Its name is a hash of all that it is made of. It holds constants of the
node's configuration and nothing about subscribers.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetplane.dataplane.programs import Program
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
    """All maps and programs of one configuration, by name."""

    tables: Mapping[str, Table]
    programs: Mapping[str, Code]

    @classmethod
    def of(cls, tree: Mapping[str, Mapping[str, Any]]) -> Object:
        """From what `asdict` gives, through JSON."""
        tables = {name: Table(**fields) for name, fields in tree["tables"].items()}
        return cls(tables, {name: Code(**fields) for name, fields in tree["programs"].items()})


SUFFIXES = (".c", ".h", ".def")
"""Of the files that programs are made of."""


def name(header: str, sources: Path, wanted: Iterable[Program], tables: Iterable[str], bcc_version: str) -> str:
    """Name the object that these would compile to. Where its maps are pinned does not matter: code has their names."""
    texts = [(path.name, path.read_text(encoding="utf-8")) for path in sources.iterdir() if path.suffix in SUFFIXES]
    lines = (line for line in header.splitlines() if not line.startswith("#define PIN_ROOT "))
    version = INCLUDE / "linux/version.h"
    return text_hash(
        bcc_version,
        version.read_text(encoding="utf-8") if version.is_file() else "",
        platform.machine(),
        *lines,
        *(program.name for program in wanted),
        *tables,
        *(part for text in sorted(texts) for part in text),
    )


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
