"""One change of the peers' files: `python -m jetplane.admin.edit add|remove|set|forget CONFIG`, run by edits.

Standard input is a JSON list of records (add) or of public keys, or a Change (set); standard output is one JSON object:
where and how many, or `error`. It says nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from jetplane import config
from jetplane.admin.messages import Change
from jetplane.config import Config
from jetplane.errors import JetplaneError, PeerError
from jetplane.model import PublicKey
from jetplane.privacy.process import forbid_core_dumps
from jetplane.sources import files, records
from jetplane.sources.records import Record


def refuse_unless_files(settings: Config) -> None:
    """Raise PeerError when peers do not come from files of this node."""
    if settings.peers.source != "files":
        raise PeerError(
            f"peers come from {settings.peers.source}, not from this node's files",
            hint="change them where they come from; `jetplane peers forget` cuts one off here at once",
        )


def add(settings: Config, new: tuple[Record, ...]) -> dict[str, Any]:
    """Add records; all of them or none."""
    file = files.add(settings.peers.path, new, lambda placed: records.wanted_by_tunnel(placed, settings))
    return {"file": str(file), "count": len(new)}


def remove(settings: Config, keys: tuple[str, ...]) -> dict[str, Any]:
    """Remove the records of these keys; all of them or, when one is not there, none."""
    unwanted = frozenset(map(PublicKey.parse, keys))
    return {"files": [str(file) for file in files.remove(settings.peers.path, unwanted)], "count": len(unwanted)}


def change(settings: Config, wanted: Change) -> dict[str, Any]:
    """Set flags of the records of these keys; of all of them or, when one is not there, of none."""
    keys = frozenset(map(PublicKey.parse, wanted.public_keys))
    return {"files": [str(f) for f in files.change(settings.peers.path, keys, wanted.flags)], "count": len(keys)}


def forget(settings: Config, keys: tuple[str, ...]) -> dict[str, Any]:
    """The same, but that there is none is fine."""
    try:
        return remove(settings, keys)
    except files.UnknownPeer:
        return {"files": [], "count": 0}


def _work(kind: str, settings: Config, body: bytes) -> dict[str, Any]:
    refuse_unless_files(settings)
    if kind == "add":
        return add(settings, msgspec.json.decode(body, type=tuple[Record, ...]))
    if kind == "set":
        return change(settings, msgspec.json.decode(body, type=Change))
    keys = msgspec.json.decode(body, type=tuple[str, ...])
    return forget(settings, keys) if kind == "forget" else remove(settings, keys)


def main(kind: str, path: str) -> int:
    """Run in the child. Returns its exit status."""
    try:
        forbid_core_dumps()
        answer = _work(kind, config.load(Path(path)), sys.stdin.buffer.read())
    except JetplaneError as error:
        code = "unknown_peer" if isinstance(error, files.UnknownPeer) else "refused"
        answer = {"error": {"code": code, "message": str(error), "hint": error.hint}}
    except Exception as error:  # its message might quote a record
        answer = {"error": {"code": "failed", "message": f"unforeseen {type(error).__name__}", "hint": ""}}
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
