"""Who listens with TCP in this network namespace (proc(5), /proc/net/tcp)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    inode: int

    @property
    def reachable_at(self) -> str:
        """An address by which this very process may reach it."""
        if self.address.is_unspecified:
            return "127.0.0.1" if self.address.version == 4 else "::1"
        return str(self.address)


def listening() -> tuple[Listener, ...]:
    """All of them."""
    return tuple(one for table in ("tcp", "tcp6") for one in _of(table))


def _of(table: str) -> Iterator[Listener]:
    try:
        lines = Path(f"/proc/thread-self/net/{table}").read_text(encoding="ascii").splitlines()[1:]
    except OSError:  # no IPv6
        return
    for row in map(str.split, lines):
        if row[3] == _LISTEN:
            yield read(row[1], int(row[9]))


def read(place: str, inode: int) -> Listener:
    """Read `0100007F:2572`: words of the address in the machine's order, then the port."""
    text, _, port = place.rpartition(":")
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    return Listener(ipaddress.ip_address(b"".join(words)), int(port, 16), inode)
