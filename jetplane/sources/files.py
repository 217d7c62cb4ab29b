"""The operator's own files of peers: read strictly, and edited without losing the operator's words.

For commands, which refuse what is wrong before anything is changed. The running node reads them by `directory`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import tomlkit
import tomlkit.exceptions

from jetplane.errors import PeerError
from jetplane.model import PublicKey
from jetplane.sources import formats, toml_text, whole
from jetplane.sources.records import Placed, Record, written


class UnknownPeer(PeerError):
    """A public key stands in no file."""


def paths(path: Path) -> list[Path]:
    """The files that hold peers, in their order: `path` itself, or those of the directory. Raises PeerError."""
    try:
        if path.is_dir():
            return sorted(file for file in path.iterdir() if formats.is_peer_file(file.name))
    except OSError as error:
        raise PeerError(f"{path}: cannot be read: {error.strerror}") from None
    if not path.exists():
        raise PeerError(f"{path}: is not there", hint="create it, empty if there are no peers yet; peers.path names it")
    if path.suffix not in formats.SUFFIXES:
        raise PeerError(f"{path}: its name must end in one of {', '.join(formats.SUFFIXES)}")
    return [path]


def read(path: Path) -> tuple[Placed, ...]:
    """Read every record under `path`, by file name and position. Raises PeerError for the first bad one."""
    return tuple(Placed(record, formats.place(file, index)) for file in paths(path) for index, record in _records(file))


def _records(file: Path) -> Iterator[tuple[int, Record]]:
    for index, item in formats.decode(file, whole.read(file)):
        if isinstance(item, str):
            raise PeerError(f"{formats.place(file, index)}: {item}")
        yield index, item


def add(path: Path, records: Iterable[Record], check: Callable[[tuple[Placed, ...]], object]) -> Path:
    """Add records and return the file they went to; `check` sees all records as they would be and may raise."""
    file = _local_file(path)
    new = tuple(records)
    with _locked(path):
        existing = read(path)
        check((*existing, *_named(new)))
        _write(file, _with(file, new))
    return file


def remove(path: Path, public_keys: Collection[PublicKey]) -> tuple[Path, ...]:
    """Remove the records of these keys and return the files they stood in. What else is wrong there stops nothing.

    Raises UnknownPeer, and changes nothing, when one of the keys stands nowhere; PeerError when it might stand in a
    file that cannot be read.
    """
    return _edit(path, frozenset(public_keys), _without)


def change(path: Path, public_keys: Collection[PublicKey], flags: Mapping[str, bool]) -> tuple[Path, ...]:
    """Set these flags (`restricted`, `statistics`) of the keys' records and return the files that they stand in.

    Nothing else of a file changes, its comments and order neither; raises as `remove` does.
    """
    return _edit(path, frozenset(public_keys), lambda file, positions: _changed(file, positions, flags))


def _edit(path: Path, keys: frozenset[PublicKey], rewrite: Callable[[Path, Collection[int]], str]) -> tuple[Path, ...]:
    """Write the files anew in which records of these keys stand, all of them or none."""
    with _locked(path):
        found, unreadable = _find(paths(path), keys)
        missing = len(keys.difference(*(positions.values() for positions in found.values())))
        if missing and unreadable:
            raise unreadable[0]
        if missing:
            which = "no peer with this public key" if len(keys) == 1 else f"{missing} of the public keys: no peer"
            raise UnknownPeer(f"{path}: {which}", hint="`jetplane peers list` shows them")
        texts = {file: rewrite(file, positions) for file, positions in found.items()}
        for file, text in texts.items():
            _write(file, text)
    return tuple(texts)


def _find(
    candidates: list[Path], keys: frozenset[PublicKey]
) -> tuple[dict[Path, dict[int, PublicKey]], list[PeerError]]:
    """File → position → key of their records, and what is wrong with the files that cannot be searched."""
    found: dict[Path, dict[int, PublicKey]] = {}
    unreadable = []
    for file in candidates:
        try:
            items = formats.decode(file, whole.read(file))
        except PeerError as error:
            unreadable.append(error)
            continue
        positions = {index: key for index, item in items if (key := _key(item)) in keys and key}
        if positions:
            found[file] = positions
    return found, unreadable


def _key(item: Record | str) -> PublicKey | None:
    try:
        return None if isinstance(item, str) else PublicKey.parse(item.public_key)
    except PeerError:
        return None


def _named(new: tuple[Record, ...]) -> tuple[Placed, ...]:
    if len(new) == 1:
        return (Placed(new[0], "the new peer"),)
    return tuple(Placed(record, f"new peer {number}") for number, record in enumerate(new, 1))


def _local_file(path: Path) -> Path:
    """Where `add` writes: the file itself, or `local.toml` of a directory."""
    return path / "local.toml" if path.is_dir() else path


def _with(file: Path, new: tuple[Record, ...]) -> str:
    raw = file.read_bytes() if file.exists() else b""
    if file.suffix == ".json":
        return _json([*formats.raw_records(file, raw), *(msgspec.Raw(json.dumps(written(r)).encode()) for r in new)])
    if file.suffix == ".jsonl":
        return raw.decode() + "".join(json.dumps(written(record)) + "\n" for record in new)
    return _with_tables(file, raw.decode(), [written(record) for record in new])


def _with_tables(file: Path, before: str, new: list[dict[str, Any]]) -> str:
    """Append tables as text: a parser that keeps comments would need minutes for a hundred thousand peers."""
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    after = before + gap + "\n".join(map(_table, new))
    old = tomllib.loads(before)
    try:
        complete = tomllib.loads(after) == old | {"peer": [*old.get("peer", ()), *new]}
    except tomllib.TOMLDecodeError:
        complete = False
    if not complete:
        raise PeerError(f"{file}: no table can follow here; not changed", hint="write its peers as [[peer]] tables")
    return after


def _table(fields: dict[str, Any]) -> str:
    """One record in TOML, whose strings, numbers and arrays are written as JSON's."""
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items())
    return "".join(("[[peer]]\n", *lines))


def _without(file: Path, unwanted: Collection[int]) -> str:
    raw = file.read_bytes()
    if file.suffix == ".json":
        return _json([text for index, text in enumerate(formats.raw_records(file, raw)) if index not in unwanted])
    if file.suffix == ".jsonl":
        return b"".join(line for index, line in formats.lines(file, raw) if index not in unwanted).decode()
    if (after := toml_text.without_peers(raw.decode(), unwanted)) is not None:
        return after
    document = _toml_document(file)
    tables = document["peer"]
    for index in sorted(unwanted, reverse=True):
        del tables[index]
    return tomlkit.dumps(document)


def _changed(file: Path, positions: Collection[int], flags: Mapping[str, bool]) -> str:
    raw = file.read_bytes()
    if file.suffix == ".json":
        texts = enumerate(formats.raw_records(file, raw))
        return _json([msgspec.Raw(_flagged(text, flags)) if index in positions else text for index, text in texts])
    if file.suffix == ".jsonl":
        lines = formats.lines(file, raw)
        return b"".join(_flagged(line, flags) + b"\n" if index in positions else line for index, line in lines).decode()
    if (after := toml_text.with_flags(raw.decode(), positions, flags)) is not None:
        return after
    document = _toml_document(file)
    for index in positions:
        document["peer"][index].update(flags)
    return tomlkit.dumps(document)


def _flagged(raw: msgspec.Raw | bytes, flags: Mapping[str, bool]) -> bytes:
    return json.dumps(msgspec.json.decode(raw, type=dict[str, Any]) | dict(flags), ensure_ascii=False).encode()


def _toml_document(file: Path) -> tomlkit.TOMLDocument:
    """The file with its comments and order kept, so that editing it does not lose the operator's own words."""
    try:
        return tomlkit.parse(file.read_text(encoding="utf-8")) if file.exists() else tomlkit.document()
    except tomlkit.exceptions.ParseError:
        raise PeerError(f"{file}: is not TOML; not changed") from None


def _json(records: list[msgspec.Raw]) -> str:
    return msgspec.json.format(msgspec.json.encode({"peer": records}), indent=2).decode() + "\n"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep two editors apart; the lock lies beside the peers and is never mistaken for a file of peers."""
    lock = path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock")
    try:
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise PeerError(f"{path}: cannot be changed: {error.strerror}") from None


def _write(file: Path, text: str) -> None:
    """Replace the file at once: a reader sees the old whole or the new whole (rename(2))."""
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".new", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        Path(name).replace(file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
