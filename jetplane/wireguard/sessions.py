"""How many sessions a tunnel carries: `python -m jetplane.wireguard.sessions kernel|userspace NAME`.

A session is a peer whose last handshake is at most 180 s old: an older key may not be used (WireGuard's paper,
section 6.1). The dump behind it tells who was where and when; this short-lived process writes one number, or `-` and an
errno, on its standard output, and nothing else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Final

from jetplane.wireguard import device
from jetplane.wireguard.attributes import DEVICE_PEERS, PEER_LAST_HANDSHAKE, U64, walk

LIFETIME_S: Final = 180  # REJECT_AFTER_TIME


def count(handshakes: Iterable[int], now: float) -> int:
    """How many of these times (Unix seconds, 0: never) are of a session that may still be used."""
    return sum(at > 0 and -LIFETIME_S <= now - at <= LIFETIME_S for at in handshakes)


def of_kernel(messages: Iterable[memoryview]) -> Iterator[int]:
    """The handshake times in a WG_CMD_GET_DEVICE answer, each message given as its attributes."""
    for message in messages:
        for kind, peers in walk(message):
            if kind == DEVICE_PEERS:
                for _, peer in walk(peers):
                    for attribute, value in walk(peer):
                        if attribute == PEER_LAST_HANDSHAKE:  # struct __kernel_timespec: seconds first
                            yield int(U64.unpack_from(value)[0])


def of_userspace(lines: Iterable[bytes]) -> Iterator[int]:
    """The same of the answer to `get=1`. Raises OSError as wireguard-go answers, ValueError for no such answer."""
    for line in lines:
        name, _, value = line.rstrip(b"\n").partition(b"=")
        if name == b"last_handshake_time_sec":
            yield int(value)
        elif name == b"errno":
            if int(value):
                raise OSError(abs(int(value)), "refused")
            return
    raise ValueError("the answer ends without errno")


def read(kind: str, name: str, now: float) -> int:
    """Count the sessions of a device. Raises OSError."""
    return device.read(
        kind,
        name,
        lambda messages: count(of_kernel(messages), now),
        lambda lines: (0, count(of_userspace(lines), now)),
    )


def main(kind: str, name: str) -> int:
    """Run in the child. Returns its exit status."""
    return device.tell_number(lambda: read(kind, name, time.time()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
