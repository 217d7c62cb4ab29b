"""Prefixes as numbers: read from a file that people and feeds write, a million lines in a second or two."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import netaddr
from netaddr import ip as registries

from jetplane.errors import ConfigurationError


class Prefix(NamedTuple):
    """An IPv4 or IPv6 prefix; `first` is its lowest address as a number."""

    version: int
    first: int
    length: int

    @property
    def bits(self) -> int:
        """Of an address: 32 or 128."""
        return 32 if self.version == 4 else 128


def read(file: Path) -> Iterator[Prefix]:
    """Every prefix of a file: one a line, a single address without its length; what follows # or ; is a comment.

    Raises ConfigurationError naming file and line, without repeating it.
    """
    try:
        with file.open(encoding="ascii") as lines:
            for number, line in enumerate(lines, 1):
                text = line.partition("#")[0].partition(";")[0].strip()
                if text:
                    try:
                        yield parse(text)
                    except ValueError as error:
                        raise ConfigurationError(
                            f"{file}:{number}: {error}; the lists stay as they were",
                            hint="correct the line, or put # before it",
                        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not a text of addresses"
        raise ConfigurationError(f"{file}: blocklist: {reason}; the lists stay as they were") from None


def parse(text: str) -> Prefix:
    """`192.0.2.0/24`, `192.0.2.7`, `2001:db8::/32`. Raises ValueError saying what is wrong."""
    host, slash, tail = text.partition("/")
    try:
        version, first = 4, int.from_bytes(socket.inet_pton(socket.AF_INET, host))
    except OSError:
        try:
            version, first = 6, int.from_bytes(socket.inet_pton(socket.AF_INET6, host))
        except OSError:
            raise ValueError("is not an address or prefix") from None
    bits = 32 if version == 4 else 128
    if not slash:
        return Prefix(version, first, bits)
    if not (tail.isascii() and tail.isdigit() and 1 <= int(tail) <= bits):
        raise ValueError(f"expected a prefix length from 1 to {bits}")
    length = int(tail)
    if first & (1 << bits - length) - 1:
        raise ValueError("has bits beyond its prefix length")
    return Prefix(version, first, length)


def bogons() -> Iterator[Prefix]:
    """What the IANA special-purpose registries (RFC 6890) call not globally reachable, and all that is no unicast.

    Of IPv4 whole /24s: the two anycast addresses in 192.0.0.0/24 are asked, and never ask.
    """
    v4 = (*registries.IPV4_NOT_GLOBALLY_REACHABLE, registries.IPV4_MULTICAST)
    for network in netaddr.cidr_merge(n if n.prefixlen <= 24 else n.supernet(24)[0] for n in v4):
        yield Prefix(4, int(network.first), network.prefixlen)
    outside = netaddr.cidr_exclude("::/0", "2000::/3")
    v6 = netaddr.IPSet([*registries.IPV6_NOT_GLOBALLY_REACHABLE, *outside])
    for network in (v6 - netaddr.IPSet(registries.IPV6_NOT_GLOBALLY_REACHABLE_EXCEPTIONS)).iter_cidrs():
        yield Prefix(6, int(network.first), network.prefixlen)
