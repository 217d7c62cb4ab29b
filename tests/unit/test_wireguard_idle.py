"""Who is idle: the rule, and reading it out of both forms of a dump."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

import pytest

from jetplane.wireguard.attributes import (
    DEVICE_PEERS,
    NESTED,
    PEER_ALLOWED_IPS,
    PEER_ENDPOINT,
    PEER_KEEPALIVE,
    PEER_LAST_HANDSHAKE,
    PEER_PUBLIC_KEY,
    PEER_RX_BYTES,
    attribute,
)
from jetplane.wireguard.idle import LIMITS, confirmed, of_kernel, of_userspace
from jetplane.wireguard.look import unpack

NOW = 1_800_000_000.0
ENDPOINT = struct.pack("=HH4s8x", 2, 0x5000, bytes((192, 0, 2, 7)))


@dataclass(frozen=True)
class Case:
    why: str
    age_s: float | None  # since the handshake; None: there was none
    idle: bool
    endpoint: bool = True


CASES = (
    Case("half-open", None, True),
    Case("never seen", None, False, endpoint=False),
    Case("fresh", 1, False),
    Case("at the edge of its life", 180, False),
    Case("stale", 181, True),
    Case("stale, and forgotten already", 181, False, endpoint=False),
    Case("the clock was set back a little", -60, False),
    Case("the clock was set back far", -3600, True),
)


def _netlink(cases: tuple[Case, ...]) -> list[memoryview]:
    peers = b""
    for number, case in enumerate(cases):
        handshake = 0 if case.age_s is None else int(NOW - case.age_s)
        body = attribute(PEER_PUBLIC_KEY, bytes([number]) * 32)
        body += attribute(PEER_LAST_HANDSHAKE, struct.pack("=qq", handshake, 999))
        body += attribute(PEER_KEEPALIVE, struct.pack("=H", 25))
        body += attribute(PEER_RX_BYTES, struct.pack("=Q", 148 + number))
        body += attribute(PEER_ENDPOINT, ENDPOINT) if case.endpoint else b""
        body += attribute(PEER_ALLOWED_IPS | NESTED, b"")
        peers += attribute(NESTED, body)
    rest = attribute(NESTED, attribute(PEER_PUBLIC_KEY, bytes([len(cases) - 1]) * 32))  # the last one, continued
    return [memoryview(attribute(DEVICE_PEERS | NESTED, part)) for part in (peers, rest)]


def _uapi(cases: tuple[Case, ...]) -> list[bytes]:
    lines = [b"private_key=" + b"11" * 32, b"listen_port=51820"]
    for number, case in enumerate(cases):
        lines.append(b"public_key=" + (bytes([number]) * 32).hex().encode())
        lines += [b"endpoint=192.0.2.7:80"] if case.endpoint else []
        lines.append(b"last_handshake_time_sec=%d" % (0 if case.age_s is None else int(NOW - case.age_s)))
        lines += [b"last_handshake_time_nsec=5", b"tx_bytes=1", b"rx_bytes=%d" % (148 + number)]
    return [line + b"\n" for line in (*lines, b"errno=0")]


def test_the_rule_holds_in_both_forms_of_a_dump() -> None:
    expected = {bytes([n]) * 32: 148 + n for n, case in enumerate(CASES) if case.idle}
    assert of_kernel(_netlink(CASES), now_s=NOW, stale_s=LIMITS.stale_s) == expected
    assert of_userspace(_uapi(CASES), now_s=NOW, stale_s=LIMITS.stale_s) == (0, expected)


def test_a_handshake_under_way_is_not_idle() -> None:
    """Whoever sent something between the two looks is coming; whoever is idle only at the second is new."""
    first = {b"a": 100, b"b": 100, b"c": 100}
    second = {b"a": 100, b"b": 248, b"d": 100, b"c": 100}
    assert confirmed(first, second, 10) == [b"a", b"c"]
    assert confirmed(first, second, 1) == [b"a"]


def test_the_limits_keep_the_promise() -> None:
    """210 s after the last handshake; 30 s for one that is half-open. Three looks evict 10,000 peers."""
    assert LIMITS.stale_s == 180
    looks = -(-10_000 // LIMITS.most)
    assert LIMITS.stale_s + LIMITS.every_s + looks * (LIMITS.grace_s + 4) <= 210
    assert LIMITS.every_s + 2 * LIMITS.grace_s < 30


@pytest.mark.parametrize("cut", [1, 5, 20, 60])
def test_a_dump_that_contradicts_itself_is_refused(cut: int) -> None:
    message = bytes(_netlink(CASES)[0])
    for broken in (message[:-cut], message[:8] + bytes(4) + message[12:]):
        with pytest.raises(ValueError, match="attribute"):
            of_kernel([memoryview(broken)], now_s=NOW, stale_s=180)
    with pytest.raises(ValueError, match="errno"):
        of_userspace(_uapi(CASES)[:-1], now_s=NOW, stale_s=180)


def test_half_an_answer_and_a_refusal_are_told_apart() -> None:
    assert unpack(struct.pack("=I", 0) + bytes(64)) == [bytes(32), bytes(32)]
    for broken in (b"", bytes(3), bytes(20)):
        with pytest.raises(ValueError, match="short"):
            unpack(broken)
    with pytest.raises(OSError, match=os.strerror(19)):
        unpack(struct.pack("=I", 19))
