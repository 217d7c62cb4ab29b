"""What was changed on this machine, and how to put it back.

A record is on disk before its change is made, so whatever ends the controller, `jetplane down` finds everything that
may have been changed. One JSON object a line, in the order of the changes; /run keeps it until the next boot, as the
kernel keeps the changes. Holds the node's own interfaces and addresses, nothing of any peer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jetplane.errors import JetplaneError

Backend = Literal["kernel", "userspace"]
"""Which WireGuard made a tunnel."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An interface made by a WireGuard backend."""

    interface: str
    backend: Backend

    def __str__(self) -> str:
        return f"tunnel {self.interface}"


@dataclass(frozen=True, slots=True)
class Address:
    """An address assigned to an interface, with its prefix length."""

    interface: str
    address: str

    def __str__(self) -> str:
        return f"address {self.address} on {self.interface}"


@dataclass(frozen=True, slots=True)
class Route:
    """A route to a prefix through an interface; without one, what goes there is discarded in silence."""

    destination: str
    table: int
    interface: str = ""

    def __str__(self) -> str:
        way = f"through {self.interface}" if self.interface else "to nowhere"
        return f"route to {self.destination} {way} in table {self.table}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A routing rule (ip-rule(8)): what matches is looked up in `table`; if that is 0, it is discarded in silence or,
    if `prohibited`, with the answer that it is so.

    An empty selector matches everything; `interface` is the incoming one, "lo" for what the node itself sends.
    """

    family: int  # 4 or 6
    priority: int  # the lowest comes first
    table: int = 0
    mark: int = 0
    interface: str = ""
    destination: str = ""
    prohibited: bool = False

    def __str__(self) -> str:
        selectors = (
            self.mark and f"with mark {self.mark:#x}",
            self.interface and f"from {self.interface}",
            self.destination and f"to {self.destination}",
        )
        who = " ".join(part for part in selectors if part) or "everything"
        discarded = "is prohibited" if self.prohibited else "is discarded"
        what = f"is looked up in table {self.table}" if self.table else discarded
        return f"IPv{self.family} routing rule {self.priority}: {who} {what}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An address that the node answers ARP or neighbour discovery for, without having it (ip-neighbour(8))."""

    interface: str
    address: str

    def __str__(self) -> str:
        return f"proxy for {self.address} on {self.interface}"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A kernel setting, by its path below /proc/sys, like `net/ipv4/conf/eth0/forwarding`."""

    name: str

    def __str__(self) -> str:
        return f"sysctl {self.name}"


@dataclass(frozen=True, slots=True)
class Link:
    """A property of an interface: `mtu` in bytes, or `state`, up or down."""

    interface: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} of {self.interface}"


@dataclass(frozen=True, slots=True)
class Feature:
    """An offload of an interface, by its name in ethtool(8); on or off."""

    interface: str
    name: str

    def __str__(self) -> str:
        return f"offload {self.name} of {self.interface}"


Thing = Tunnel | Address | Route | Rule | Proxy
"""What is there or is not."""

Setting = Sysctl | Link | Feature
"""What has a value."""


@dataclass(frozen=True, slots=True)
class Added:
    """Something that was not there before."""

    what: Thing


@dataclass(frozen=True, slots=True)
class Changed:
    """A setting that had another value before."""

    what: Setting
    old: str
    new: str


Record = Added | Changed

_KINDS = {kind.__name__.lower(): kind for kind in (Tunnel, Address, Route, Rule, Proxy, Sysctl, Link, Feature)}


class Journal:
    """The records of one node. Only the process that holds the controller's lock may use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[Thing | Setting, Record] | None = None
        self._damaged: tuple[str, ...] = ()

    def records(self) -> tuple[Record, ...]:
        """Everything that was changed and not put back, the oldest first."""
        return tuple(self._read().values())

    def is_empty(self) -> bool:
        """Whether nothing is left to put back."""
        return not self._read()

    def damaged(self) -> tuple[str, ...]:
        """One line for each record that cannot be read any more, to show to the operator. A last line that was cut
        off is none of them: its change was never made."""
        self._read()
        return self._damaged

    def add(self, record: Record) -> None:
        """Write a record down, before its change is made. A setting that is changed again keeps its first old value:
        only that one is the original."""
        records = self._read()
        known = records.get(record.what)
        merged = _merge(known, record)
        if merged != known:
            self._append(_encode(merged))
            records[record.what] = merged

    def forget(self, whats: Iterable[Thing | Setting]) -> None:
        """Drop the records of what has been put back; what was never recorded is fine. The last one takes the
        file with it."""
        records = self._read()
        before = len(records)
        for what in whats:
            records.pop(what, None)
        if len(records) < before or self._damaged:
            self._rewrite(records.values())

    def record_tunnel(self, interface: str, backend: Backend | Literal["veth"]) -> None:
        """Write down that a WireGuard backend is about to make an interface; what stands in for one is not made."""
        if backend != "veth":
            self.add(Added(Tunnel(interface, backend)))

    def tunnels(self) -> tuple[tuple[str, Backend], ...]:
        """The interfaces that WireGuard backends made here: name and backend."""
        found = (record.what for record in self.records())
        return tuple((what.interface, what.backend) for what in found if isinstance(what, Tunnel))

    def _read(self) -> dict[Thing | Setting, Record]:
        if self._records is not None:
            return self._records
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            lines = [b""]
        except OSError as error:
            raise JetplaneError(f"{self._path}: cannot be read: {error.strerror}", hint="run as root") from None
        records: dict[Thing | Setting, Record] = {}
        damaged = []
        for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline was never finished
            try:
                record = _decode(line)
            except (ValueError, TypeError, KeyError):
                damaged.append(f"{self._path}:{number}: cannot be read, so what it recorded is not put back")
                continue
            records[record.what] = _merge(records.get(record.what), record)
        self._records, self._damaged = records, tuple(damaged)
        return records

    def _append(self, line: bytes) -> None:
        try:
            fresh = not self._path.exists()
            with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
                whole = file.read().rfind(b"\n") + 1
                file.truncate(whole)
                file.seek(whole)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            if fresh:
                self._sync_directory()
        except OSError as error:
            raise self._cannot_write(error) from None

    def _rewrite(self, records: Iterable[Record]) -> None:
        lines = b"".join(map(_encode, records))
        new = self._path.with_name(f".{self._path.name}.new")
        try:
            if lines:
                with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                    file.write(lines)
                    file.flush()
                    os.fsync(file.fileno())
                new.replace(self._path)
            else:
                self._path.unlink(missing_ok=True)
            self._sync_directory()
        except OSError as error:
            raise self._cannot_write(error) from None
        self._damaged = ()

    def _sync_directory(self) -> None:
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _cannot_write(self, error: OSError) -> JetplaneError:
        return JetplaneError(
            f"{self._path}: cannot be written, so nothing may be changed: {error.strerror}",
            hint="it must be possible to write to run_directory",
        )


def _merge(known: Record | None, record: Record) -> Record:
    if isinstance(known, Changed) and isinstance(record, Changed):
        return replace(known, new=record.new)
    return known or record


def _encode(record: Record) -> bytes:
    """{"sysctl": {"name": …}, "old": …, "new": …}, or {"address": {…}} for what was added."""
    fields: dict[str, Any] = {type(record.what).__name__.lower(): asdict(record.what)}
    if isinstance(record, Changed):
        fields |= {"old": record.old, "new": record.new}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _decode(line: bytes) -> Record:
    (kind, what), *values = dict(json.loads(line)).items()
    found = _KINDS[kind](**what)
    if isinstance(found, Thing):
        return Added(found)
    return Changed(found, **dict(values))
