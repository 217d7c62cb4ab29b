"""Peers of a wg-quick(8) server configuration, for operators who come from there.

Only what a peer record holds is taken: keys, allowed IPs, keepalive. Comments, often names of people, and endpoints
stay behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from jetplane.errors import PeerError
from jetplane.sources.records import Record

_IGNORED = frozenset({"endpoint"})  # the peer's public address: WireGuard learns it when the peer comes


@dataclass(slots=True)
class Section:
    """A `[Peer]` section: the line it begins at (from 1), and its keys in lower case with all their values."""

    line: int
    values: dict[str, list[str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Section(line={self.line})"


def sections(text: str) -> Iterator[Section]:
    """The `[Peer]` sections of a file. Raises PeerError, naming the line, for what no such file may hold."""
    name, current, peers = "", None, False
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        if line.startswith("["):
            if current is not None:
                yield current
            name = line.lower()
            if name not in ("[interface]", "[peer]"):
                raise PeerError(f"line {number}: expected [Interface] or [Peer]")
            current = Section(number) if name == "[peer]" else None
            peers = peers or current is not None
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not name:
            raise PeerError(f"line {number}: expected `key = value` in a section")
        if current is not None:
            current.values.setdefault(key.lower(), []).append(value)
    if current is not None:
        yield current
    if not peers:
        raise PeerError("holds no [Peer] section", hint="give the server's configuration, /etc/wireguard/wg0.conf")


def to_record(section: Section, *, plan: str | None) -> Record:
    """One section as a record. Raises PeerError, naming the line but no key or address."""
    unknown = section.values.keys() - _RECORDED - _IGNORED
    if unknown:
        raise PeerError(f"line {section.line}: [Peer] holds an unknown key")
    return Record(
        public_key=_one(section, "publickey") or "",
        allowed_ips=tuple(_addresses(section)),
        preshared_key=_one(section, "presharedkey"),
        persistent_keepalive=_keepalive(section),
        plan=plan,
    )


_RECORDED = frozenset({"publickey", "allowedips", "presharedkey", "persistentkeepalive"})


def _one(section: Section, key: str) -> str | None:
    values = section.values.get(key, [])
    if len(values) > 1:
        raise PeerError(f"line {section.line}: {key} stands there twice")
    return values[0] if values else None


def _addresses(section: Section) -> Iterator[str]:
    """Allowed IPs of all lines: wg(8) takes the key several times, each with a list."""
    for value in section.values.get("allowedips", []):
        yield from (part.strip() for part in value.split(",") if part.strip())


def _keepalive(section: Section) -> int:
    text = _one(section, "persistentkeepalive") or "off"
    if text.lower() == "off":
        return 0
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise PeerError(f"line {section.line}: persistentkeepalive: expected seconds or off")
    return int(text)
