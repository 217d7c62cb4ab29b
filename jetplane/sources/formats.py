"""What a file of peers looks like: TOML, JSON, or JSON Lines. Decodes bytes into records one by one."""

from __future__ import annotations

import io
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from jetplane.errors import PeerError
from jetplane.sources.records import Record, explain

SUFFIXES = (".toml", ".json", ".jsonl")


def is_peer_file(name: str) -> bool:
    """Whether a file of this name in a directory of peers is read."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def place(file: Path | str, index: int) -> str:
    """How a record is named: `peers.toml: peer[3]`, counted from 0; `peers.jsonl: line 4`, counted from 1."""
    return f"{file}: line {index + 1}" if str(file).endswith(".jsonl") else f"{file}: peer[{index}]"


def decode(file: Path, raw: bytes) -> Iterator[tuple[int, Record | str]]:
    """Position and record, or what is wrong with it, one by one. `file` gives the format and is named in errors.

    Raises PeerError, before anything is returned, for bytes that are none of this format as a whole, as those of a
    half-written file.
    """
    if file.suffix == ".jsonl":
        return ((number, _record(line)) for number, line in lines(file, raw) if line.strip())
    if file.suffix == ".json":
        return enumerate(map(_record, raw_records(file, raw)))
    return enumerate(map(_table, _tables(file, raw)))


class _JsonFile(msgspec.Struct, forbid_unknown_fields=True):
    peer: list[msgspec.Raw] = []


class _TomlFile(msgspec.Struct, forbid_unknown_fields=True):
    peer: list[Any] = []


def raw_records(file: Path, raw: bytes) -> list[msgspec.Raw]:
    """What stands in a JSON file, each record as it is written. Raises PeerError."""
    try:
        return msgspec.json.decode(raw, type=_JsonFile).peer if raw.strip() else []
    except msgspec.ValidationError as error:
        raise PeerError(f"{file}: {explain(error)}; not applied", hint='expected {"peer": [...]}') from None
    except msgspec.DecodeError:
        raise PeerError(f"{file}: is not JSON; not applied") from None


def lines(file: Path, raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines of a JSON Lines file, numbered from 0; empty ones count. Raises PeerError."""
    if raw and not raw.endswith(b"\n"):
        raise PeerError(f"{file}: its last line is not finished; not applied", hint="end every line with a newline")
    return enumerate(io.BytesIO(raw))


def _tables(file: Path, raw: bytes) -> list[Any]:
    try:
        return msgspec.convert(tomllib.loads(raw.decode()), _TomlFile).peer
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise PeerError(f"{file}: is not TOML; not applied") from None
    except msgspec.ValidationError as error:
        raise PeerError(f"{file}: {explain(error)}; not applied", hint="expected [[peer]] tables") from None


def _record(raw: msgspec.Raw | bytes) -> Record | str:
    try:
        return msgspec.json.decode(raw, type=Record)
    except msgspec.ValidationError as error:
        return explain(error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "is not JSON"


def _table(table: Any) -> Record | str:
    try:
        return msgspec.convert(table, Record)
    except msgspec.ValidationError as error:
        return explain(error)
