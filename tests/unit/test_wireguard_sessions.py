"""How many sessions a dump shows, in both of its forms."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import jetplane
from jetplane.wireguard.attributes import (
    DEVICE_PEERS,
    NESTED,
    PEER_KEEPALIVE,
    PEER_LAST_HANDSHAKE,
    PEER_PUBLIC_KEY,
    attribute,
)
from jetplane.wireguard.sessions import count, of_kernel, of_userspace

NOW = 1_800_000_000
AGES = {"fresh": 1, "at the edge": 180, "over": 181, "the clock went back a little": -60, "far": -3600}
HANDSHAKES = [0, *(NOW - age for age in AGES.values())]
SESSIONS = 3


def _netlink(handshakes: Iterable[int]) -> list[memoryview]:
    """One message a peer; the last is continued in one more, without a time."""
    messages = []
    for number, at in enumerate(handshakes):
        body = attribute(PEER_PUBLIC_KEY, bytes([number]) * 32)
        body += attribute(PEER_KEEPALIVE, struct.pack("=H", 25))
        messages.append(body + attribute(PEER_LAST_HANDSHAKE, struct.pack("=qq", at, 999)))
    messages.append(attribute(PEER_PUBLIC_KEY, bytes(32)))
    return [memoryview(attribute(DEVICE_PEERS | NESTED, attribute(NESTED, body))) for body in messages]


def test_a_session_is_a_handshake_of_the_last_180_seconds() -> None:
    lines = [b"public_key=00\n", *(b"last_handshake_time_sec=%d\n" % at for at in HANDSHAKES), b"errno=0\n", b"\n"]
    assert list(of_kernel(_netlink(HANDSHAKES))) == HANDSHAKES
    assert list(of_userspace(lines)) == HANDSHAKES
    assert count(HANDSHAKES, NOW) == SESSIONS


def test_no_answer_is_no_count() -> None:
    with pytest.raises(ValueError, match="without errno"):
        list(of_userspace([b"last_handshake_time_sec=1\n"]))
    with pytest.raises(OSError) as caught:
        list(of_userspace([b"errno=-1\n"]))
    assert caught.value.errno == errno.EPERM


def test_the_process_that_counts_says_a_number_and_nothing_else() -> None:
    command = [sys.executable, "-S", "-P", "-m", "jetplane.wireguard.sessions", "userspace", "nosuch"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(Path(jetplane.__file__).parents[1])}, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"%d\n" % -errno.ENOENT, b"")
