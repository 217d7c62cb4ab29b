"""Which peers are idle: whose session can carry no packet any more, while WireGuard still holds where they were.

WireGuard never forgets an endpoint, and so would tell for ever from where a subscriber was last seen. What is here runs
only in the process that reads the dump (look); of all that it sees, nothing but public keys leaves it.
"""

from __future__ import annotations

import socket
import struct
from binascii import unhexlify
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from jetplane.wireguard.attributes import (
    DEVICE_PEERS,
    HEADER,
    PEER_ENDPOINT,
    PEER_LAST_HANDSHAKE,
    PEER_PUBLIC_KEY,
    PEER_RX_BYTES,
    TYPE_MASK,
    U64,
    aligned,
    walk,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a peer is idle, and how often is looked. Tests have no three minutes; everybody else takes these.

    Together they keep the promise: an endpoint is gone 210 s after the last handshake, that of a half-open
    handshake 30 s after its last message. 10,000 peers are three looks of `most`.
    """

    stale_s: float = 180.0  # REJECT_AFTER_TIME: no key of a handshake this old may be used (WireGuard, section 6.1)
    grace_s: float = 2.0  # a handshake under way looks idle for a round trip
    every_s: float = 8.0  # from one look to the next
    most: int = 4096  # peers named by one look, so that the last of them is evicted soon after


LIMITS: Final = Limits()

DISCARD: Final = struct.pack("=HHI16sI", socket.AF_INET6, socket.htons(9), 0, bytes(15) + b"\1", 0)
"""struct sockaddr_in6 of [::1]:9. It never leaves the node, and overwrites an endpoint of either family whole."""

DISCARD_TEXT: Final = b"[::1]:9"
"""The same, as the userspace protocol writes it."""


def is_idle(handshake_s: float, now_s: float, stale_s: float) -> bool:
    """Whether a peer that has an endpoint is idle; times are Unix time, a `handshake_s` of 0 is "never".

    A handshake as far in the future is stale, too: the clock was set back, and nobody would ever be forgotten.
    """
    return handshake_s == 0 or not -stale_s <= now_s - handshake_s <= stale_s


def of_kernel(messages: Iterable[memoryview], *, now_s: float, stale_s: float) -> dict[bytes, int]:
    """Public key → bytes received, of the idle peers in a WG_CMD_GET_DEVICE answer; each message as its attributes."""
    found = {}
    try:
        for message in messages:
            for kind, value in walk(message):
                if kind == DEVICE_PEERS:
                    for key, handshake_s, received in _with_endpoint(value):
                        if is_idle(handshake_s, now_s, stale_s):
                            found[key] = received
    except (struct.error, IndexError):
        raise ValueError("a netlink attribute has the wrong size") from None
    return found


def _with_endpoint(data: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """(public key, latest handshake, bytes received) of each peer that has an endpoint.

    Written out rather than with `walk`: it passes over 100,000 peers, some nine attributes each, every few seconds.
    """
    unpack, header = HEADER.unpack_from, HEADER.size
    at, end = 0, len(data)
    while at + header <= end:
        length, _ = unpack(data, at)
        stop = min(at + length, end)
        place = at + header
        key, handshake_s, received, present = b"", 0, 0, False
        while place + header <= stop:
            size, kind = unpack(data, place)
            if size < header:
                raise ValueError("a netlink attribute is shorter than its header")
            kind &= TYPE_MASK
            if kind == PEER_PUBLIC_KEY:
                key = bytes(data[place + header : place + size])
            elif kind == PEER_LAST_HANDSHAKE:
                (handshake_s,) = U64.unpack_from(data, place + header)  # struct __kernel_timespec: seconds first
            elif kind == PEER_RX_BYTES:
                (received,) = U64.unpack_from(data, place + header)
            elif kind == PEER_ENDPOINT:
                present = True
            place += aligned(size)
        if present:
            yield key, handshake_s, received
        if length < header:
            raise ValueError("a netlink attribute is shorter than its header")
        at += aligned(length)


def of_userspace(lines: Iterable[bytes], *, now_s: float, stale_s: float) -> tuple[int, dict[bytes, int]]:
    """The errno of an answer to `get=1`, and the same as `of_kernel`. Raises ValueError when it is no such answer."""
    found: dict[bytes, int] = {}
    key, present, handshake_s, received = b"", False, 0, 0
    for line in lines:
        name, _, value = line.rstrip(b"\n").partition(b"=")
        match name:
            case b"public_key" | b"errno":
                if present and is_idle(handshake_s, now_s, stale_s):
                    found[unhexlify(key)] = received
                if name == b"errno":
                    return abs(int(value)), found
                key, present, handshake_s, received = value, False, 0, 0
            case b"endpoint":
                present = True
            case b"last_handshake_time_sec":
                handshake_s = int(value)
            case b"rx_bytes":
                received = int(value)
    raise ValueError("the answer ends without errno")


def confirmed(first: dict[bytes, int], second: dict[bytes, int], most: int) -> list[bytes]:
    """Keys idle at both looks that received nothing in between, at most so many."""
    quiet = [key for key, received in second.items() if first.get(key) == received]
    return quiet[:most]
