"""Generic netlink with the family `wireguard`: whole messages out, acknowledgements and dumps in.

The socket is pyroute2's in the controller (kernel) and Python's own in the child that reads dumps, which starts often
and would spend most of its life importing pyroute2.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol, TypeVar

from jetplane.wireguard.attributes import (
    CMD_GET_DEVICE,
    CMD_SET_DEVICE,
    FAMILY_NAME,
    FAMILY_VERSION,
    HEADROOM,
    U16,
    aligned,
    attribute,
    walk,
)

WINDOW: Final = 8
"""Messages sent before their acknowledgements are read: the answers, 36 bytes each, fit any receive buffer."""

ATTEMPTS: Final = 200
"""How often a dump is tried while peers are changing under it."""

PATIENCE_MS: Final = 30_000
"""The kernel answers within the call; whoever waits this long waits for ever."""

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x01
_NLM_F_ACK: Final = 0x04
_NLM_F_DUMP_INTR: Final = 0x10
_NLM_F_DUMP: Final = 0x300
_GENL_ID_CTRL: Final = 0x10
_CTRL_CMD_GETFAMILY: Final = 3
_CTRL_ATTR_FAMILY_ID: Final = 1
_CTRL_ATTR_FAMILY_NAME: Final = 2
_NETLINK_GENERIC: Final = 16
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10  # an error does not repeat the request, which may hold keys

_HEADERS: Final = struct.Struct("=IHHIIBBH")  # nlmsghdr: length, type, flags, sequence, port; genlmsghdr
_NLMSGHDR: Final = struct.Struct("=IHHII")
_GENLMSGHDR_SIZE: Final = 4
_ERROR: Final = struct.Struct("=i")

T = TypeVar("T")


class Connection(Protocol):
    """What is asked of a netlink socket: Python's own will do, and so will pyroute2's."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """As of any socket."""

    def send(self, data: bytearray, /) -> int:
        """Send one datagram."""

    def recv(self, size: int, /) -> bytes:
        """Receive one datagram."""

    def close(self) -> None:
        """Give it back."""


def open_plain() -> WireGuardSocket:
    """Open it without pyroute2."""
    connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
    return WireGuardSocket(connection, connection.fileno())


class WireGuardSocket:
    """Talks to the kernel's WireGuard in the network namespace of the thread that opened the socket.

    Every method raises OSError with the kernel's errno.
    """

    def __init__(self, connection: Connection, descriptor: int) -> None:
        """Take `connection` over; its file descriptor is given apart, as pyroute2 has it elsewhere than Python.

        Makes the kernel load its module. ENOENT says that this kernel has no WireGuard.
        """
        self._connection = connection
        self._sequence = 0
        self._interrupted = False
        self._readable = select.poll()
        self._readable.register(descriptor, select.POLLIN)
        try:
            connection.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._family = self._find_family()
        except BaseException:
            connection.close()
            raise

    def __enter__(self) -> WireGuardSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._connection.close()

    def set(self, messages: Iterable[bytearray]) -> None:
        """Send SET_DEVICE messages in order, several at a time, and stop after the first that is refused.

        Each has `encode.HEADROOM` free bytes in front, filled in here. What was sent before the refusal, and up to
        WINDOW messages after it, has been carried out.
        """
        unanswered = 0
        for message in messages:
            self._send(self._family, _NLM_F_REQUEST | _NLM_F_ACK, CMD_SET_DEVICE, message)
            unanswered += 1
            if unanswered == WINDOW:
                self._collect(unanswered)
                unanswered = 0
        self._collect(unanswered)

    def dump(self, request: bytearray, read: Callable[[Iterator[memoryview]], T]) -> T:
        """Send GET_DEVICE and return what `read` makes of the answer's messages (each as its attributes).

        When a change under way made the dump inconsistent it is asked again; `read` must start afresh each time.
        """
        for _ in range(ATTEMPTS):
            self._interrupted = False
            self._send(self._family, _NLM_F_REQUEST | _NLM_F_DUMP, CMD_GET_DEVICE, request)
            result = read(self._answers())
            if not self._interrupted:
                return result
        raise OSError(errno.EBUSY, "peers kept changing while they were read")

    def _find_family(self) -> int:
        """Ask the controller of generic netlink for the number of the family."""
        request = bytearray(HEADROOM) + attribute(_CTRL_ATTR_FAMILY_NAME, FAMILY_NAME.encode() + b"\0")
        self._send(_GENL_ID_CTRL, _NLM_F_REQUEST | _NLM_F_ACK, _CTRL_CMD_GETFAMILY, request)
        family = 0
        for answer in self._answers():
            for kind, value in walk(answer):
                if kind == _CTRL_ATTR_FAMILY_ID:
                    (family,) = U16.unpack(value)
        return family

    def _send(self, kind: int, flags: int, command: int, message: bytearray) -> None:
        self._sequence += 1
        _HEADERS.pack_into(message, 0, len(message), kind, flags, self._sequence, 0, command, FAMILY_VERSION, 0)
        self._connection.send(message)

    def _receive(self) -> Iterator[tuple[int, int, int, memoryview]]:
        """Read one datagram and yield (type, flags, sequence, payload) of the messages in it."""
        if not self._readable.poll(PATIENCE_MS):
            raise TimeoutError(errno.ETIMEDOUT, "the kernel did not answer")
        data = memoryview(self._connection.recv(1 << 16))
        at = 0
        while at + _NLMSGHDR.size <= len(data):
            length, kind, flags, sequence, _ = _NLMSGHDR.unpack_from(data, at)
            if length < _NLMSGHDR.size or at + length > len(data):
                raise OSError(errno.EBADMSG, "a netlink message is longer than its datagram")
            yield kind, flags, sequence, data[at + _NLMSGHDR.size : at + length]
            at += aligned(length)

    def _collect(self, count: int) -> None:
        """Read `count` acknowledgements and raise the first refusal among them."""
        refused = 0
        while count:
            for kind, _, _, payload in self._receive():
                if kind == _NLMSG_ERROR:
                    count -= 1
                    refused = refused or -_ERROR.unpack_from(payload)[0]
        if refused:
            raise OSError(refused, os.strerror(refused))

    def _answers(self) -> Iterator[memoryview]:
        while True:
            for kind, flags, sequence, payload in self._receive():
                if sequence != self._sequence:
                    continue
                self._interrupted |= bool(flags & _NLM_F_DUMP_INTR)
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    code = -_ERROR.unpack_from(payload)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                yield payload[_GENLMSGHDR_SIZE:]
