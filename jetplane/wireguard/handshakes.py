"""How many peers have just made a handshake: `python -m jetplane.wireguard.handshakes KIND WINDOW NAME…`.

Standard input carries the public keys of peers that are not to be counted, 32 bytes each. The dump behind the answer
tells who was where and when; this short-lived process writes one number, or `-` and an errno, on its standard output,
and nothing else. A peer on several interfaces, as while the node's key changes, counts once.
"""

from __future__ import annotations

import struct
import sys
import time
from binascii import unhexlify
from collections.abc import Iterable, Iterator

from jetplane.wireguard import device
from jetplane.wireguard.attributes import DEVICE_PEERS, PEER_LAST_HANDSHAKE, PEER_PUBLIC_KEY, U64, walk

Times = Iterator[tuple[bytes, int]]
"""(public key, Unix seconds of the latest handshake; 0: never)."""


def recent(times: Times, *, now: float, window: float, without: frozenset[bytes]) -> set[bytes]:
    """The peers whose latest handshake is younger than `window` seconds."""
    return {key for key, at in times if at > 0 and abs(now - at) < window and key not in without}


def of_kernel(messages: Iterable[memoryview]) -> Times:
    """Of a WG_CMD_GET_DEVICE answer, each message given as its attributes. Raises ValueError."""
    try:
        for message in messages:
            for kind, peers in walk(message):
                if kind == DEVICE_PEERS:
                    yield from map(_one, (peer for _, peer in walk(peers)))
    except (struct.error, IndexError):
        raise ValueError("a netlink attribute has the wrong size") from None


def _one(peer: memoryview) -> tuple[bytes, int]:
    key, at = b"", 0
    for attribute, value in walk(peer):
        if attribute == PEER_PUBLIC_KEY:
            key = bytes(value)
        elif attribute == PEER_LAST_HANDSHAKE:  # struct __kernel_timespec: seconds first
            (at,) = U64.unpack_from(value)
    return key, at


def of_userspace(lines: Iterable[bytes]) -> Times:
    """The same of the answer to `get=1`. Raises OSError as wireguard-go answers, ValueError for no such answer."""
    key = b""
    for line in lines:
        name, _, value = line.rstrip(b"\n").partition(b"=")
        if name == b"public_key":
            key = unhexlify(value)
        elif name == b"last_handshake_time_sec":
            yield key, int(value)
        elif name == b"errno":
            if int(value):
                raise OSError(abs(int(value)), "refused")
            return
    raise ValueError("the answer ends without errno")


def read(kind: str, names: Iterable[str], window: float, without: frozenset[bytes]) -> int:
    """Count them over all these devices. Raises OSError."""
    now = time.time()

    def judge(times: Times) -> set[bytes]:
        return recent(times, now=now, window=window, without=without)

    found: set[bytes] = set()
    for name in names:
        found |= device.read(
            kind, name, lambda messages: judge(of_kernel(messages)), lambda lines: (0, judge(of_userspace(lines)))
        )
    return len(found)


def main(kind: str, window: str, *names: str) -> int:
    """Run in the child. Returns its exit status."""

    def count() -> int:
        keys = sys.stdin.buffer.read()
        without = frozenset(keys[at : at + 32] for at in range(0, len(keys), 32))
        return read(kind, names, float(window), without)

    return device.tell_number(count)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
