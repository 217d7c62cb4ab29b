"""One tunnel spread over several interfaces, each with locks, queues and dumps of its own, all with the same key.

A peer's shard is the part of the tunnel's prefixes that its addresses lie in, not a hash of its key: so each part is
one plain route, and what the stack itself answers (ICMP errors, "too big") leaves by the right interface as any other
packet does, without marks or rules. Whoever gives out addresses spreads the peers by it.
"""

from __future__ import annotations

import re
from typing import Final

import netaddr

LONGEST_NAME: Final = 15
"""Characters of an interface's name (IFNAMSIZ less the final zero)."""

_NUMBERED: Final = re.compile(r"(?P<stem>.*?)(?P<number>\d+)")


def names(name: str, count: int) -> tuple[str, ...]:
    """`jet0` → jet0, jet1, … Raises ValueError, saying what is expected."""
    match = _NUMBERED.fullmatch(name)
    if match is None:
        raise ValueError("a name that ends in a number, to count on from")
    made = tuple(f"{match['stem']}{int(match['number']) + n}" for n in range(count))
    if made[0] != name or any(len(one) > LONGEST_NAME for one in made):
        raise ValueError(f"a name from which {count} can be counted, none longer than {LONGEST_NAME} characters")
    return made


def parts(text: str, count: int) -> tuple[str, ...]:
    """`10.64.0.1/16` in 4 → 10.64.0.1/18, 10.64.64.1/18, 10.64.128.1/18, 10.64.192.1/18: the node's address in each.

    `count` is a power of two. Raises ValueError, saying what is expected.
    """
    address = netaddr.IPNetwork(text)
    length = address.prefixlen + count.bit_length() - 1
    if length > (30 if address.version == 4 else 126):
        raise ValueError(f"a prefix with room for {count} parts")
    made = tuple(address.cidr.subnet(length))
    offset = int(address.ip) - int(address.network)
    if offset >= made[0].size:
        raise ValueError(f"an address in the first of {count} parts of its prefix")
    return tuple(f"{netaddr.IPAddress(one.first + offset, one.version)}/{length}" for one in made)
