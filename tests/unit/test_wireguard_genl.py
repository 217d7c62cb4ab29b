"""What the kernel may answer but will not on request: interruptions, refusals in mid-window, damaged datagrams.

A socket pair stands in for the kernel; its answers are queued beforehand, by sequence number.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from jetplane.wireguard.attributes import HEADROOM, attribute
from jetplane.wireguard.genl import ATTEMPTS, WINDOW, WireGuardSocket

FAMILY = 0x21
ERROR, DONE = 2, 3
MULTI, INTERRUPTED = 0x2, 0x10
KERNEL_LOOKUP = 1  # the first sequence number: who is "wireguard"?


class Pair:
    """Two ends of a datagram socket; ours takes netlink's options without effect."""

    def __init__(self) -> None:
        self._ours, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fileno, self.send, self.recv = self._ours.fileno, self._ours.send, self._ours.recv
        self.closed = False

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        pass

    def close(self) -> None:
        self._ours.close()
        self.closed = True

    def answer(self, *messages: bytes) -> None:
        self.kernel.send(b"".join(messages))

    def requests(self) -> list[tuple[int, int, int]]:
        """(type, flags, sequence) of all that was sent."""
        self.kernel.setblocking(False)
        found = []
        try:
            while data := self.kernel.recv(1 << 16):
                found.append(struct.unpack_from("=HHI", data, 4))
        except BlockingIOError:
            pass
        return found


def message(kind: int, sequence: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload


def acknowledgement(sequence: int, code: int = 0) -> bytes:
    return message(ERROR, sequence, struct.pack("=i", -code) + bytes(16))


def part(sequence: int, flags: int = 0) -> bytes:
    return message(FAMILY, sequence, bytes(4) + attribute(6, b"\1\0"), MULTI | flags)


def done(sequence: int, code: int = 0, flags: int = 0) -> bytes:
    return message(DONE, sequence, struct.pack("=i", -code), MULTI | flags)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    made.answer(message(0x10, KERNEL_LOOKUP, bytes(4) + attribute(1, struct.pack("=H", FAMILY))))
    made.answer(acknowledgement(KERNEL_LOOKUP))
    yield made
    made.kernel.close()


@pytest.fixture
def netlink(pair: Pair) -> Iterator[WireGuardSocket]:
    with WireGuardSocket(pair, pair.fileno()) as made:
        yield made


def count(messages: Iterator[memoryview]) -> int:
    return sum(1 for _ in messages)


def blank() -> bytearray:
    return bytearray(HEADROOM)


def test_a_kernel_without_the_family_says_so_and_the_socket_is_closed() -> None:
    pair = Pair()
    pair.answer(acknowledgement(KERNEL_LOOKUP, errno.ENOENT))
    with pytest.raises(FileNotFoundError):
        WireGuardSocket(pair, pair.fileno())
    assert pair.closed
    pair.kernel.close()


def test_an_interrupted_dump_is_asked_for_again_and_its_parts_forgotten(pair: Pair, netlink: WireGuardSocket) -> None:
    pair.answer(part(2), part(2, INTERRUPTED))
    pair.answer(part(2))
    pair.answer(done(2))
    pair.answer(part(3), part(3))
    pair.answer(done(3))
    assert netlink.dump(blank(), count) == 2
    assert [request[2] for request in pair.requests()] == [1, 2, 3]


def test_an_interruption_that_only_the_end_tells_of_counts(pair: Pair, netlink: WireGuardSocket) -> None:
    pair.answer(part(2), done(2, flags=INTERRUPTED))
    pair.answer(part(3), part(3), done(3))
    assert netlink.dump(blank(), count) == 2


def test_a_dump_that_is_interrupted_for_ever_is_given_up(pair: Pair, netlink: WireGuardSocket) -> None:
    for sequence in range(2, 2 + ATTEMPTS):
        pair.answer(done(sequence, flags=INTERRUPTED))
    with pytest.raises(OSError, match="kept changing") as error:
        netlink.dump(blank(), count)
    assert error.value.errno == errno.EBUSY


@pytest.mark.parametrize("refusal", [done(2, errno.ENODEV), acknowledgement(2, errno.ENODEV)])
def test_a_refused_dump_raises_its_errno(pair: Pair, netlink: WireGuardSocket, refusal: bytes) -> None:
    pair.answer(refusal)
    with pytest.raises(OSError) as error:
        netlink.dump(blank(), count)
    assert error.value.errno == errno.ENODEV


def test_what_is_left_of_an_earlier_answer_is_skipped(pair: Pair, netlink: WireGuardSocket) -> None:
    pair.answer(part(1), part(1), done(1))
    pair.answer(part(2), done(2))
    assert netlink.dump(blank(), count) == 1


def test_messages_go_out_by_the_window_and_stop_at_the_first_refusal(pair: Pair, netlink: WireGuardSocket) -> None:
    for sequence in range(2, 2 + WINDOW):
        pair.answer(acknowledgement(sequence, errno.EINVAL if sequence == 4 else errno.EPERM if sequence == 5 else 0))
    with pytest.raises(OSError) as error:
        netlink.set(blank() for _ in range(3 * WINDOW))
    assert error.value.errno == errno.EINVAL, "the first refusal is told, not the last"
    sent = pair.requests()[1:]
    assert sent == [(FAMILY, 0x5, sequence) for sequence in range(2, 2 + WINDOW)]


def test_every_message_is_waited_for(pair: Pair, netlink: WireGuardSocket) -> None:
    for sequence in range(2, 2 + 2 * WINDOW + 3):
        pair.answer(acknowledgement(sequence))
    netlink.set(blank() for _ in range(2 * WINDOW + 3))
    assert len(pair.requests()) == 1 + 2 * WINDOW + 3
    os.set_blocking(pair.fileno(), False)
    with pytest.raises(BlockingIOError):
        pair.recv(1)


@pytest.mark.parametrize("length", [15, 17, 1000])
def test_a_message_longer_than_its_datagram_is_refused(pair: Pair, netlink: WireGuardSocket, length: int) -> None:
    pair.answer(struct.pack("=IHHII", length, FAMILY, 0, 2, 0))
    with pytest.raises(OSError) as error:
        netlink.dump(blank(), count)
    assert error.value.errno == errno.EBADMSG


def test_a_kernel_that_does_not_answer_is_not_waited_for_for_ever(
    netlink: WireGuardSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jetplane.wireguard.genl.PATIENCE_MS", 10)
    with pytest.raises(TimeoutError):
        netlink.set([blank()])
