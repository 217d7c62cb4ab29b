"""What the daemon hears from and tells its supervisor: signals, and sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator


def notify(state: str) -> None:
    """Send `READY=1`, `RELOADING=1`, `STOPPING=1` or `WATCHDOG=1` to systemd; without systemd nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as handle:
        try:
            handle.sendto(state.encode(), address)
        except OSError:
            return  # the manager is gone; the node must go on


@contextlib.contextmanager
def wakeups(*numbers: signal.Signals) -> Iterator[socket.socket]:
    """Turn these signals into bytes, one a signal, that can be read from the socket."""
    woken, waker = socket.socketpair()
    with woken, waker:
        waker.setblocking(False)
        woken.setblocking(False)
        before_fd = signal.set_wakeup_fd(waker.fileno())
        before = [(number, signal.signal(number, lambda *_: None)) for number in numbers]
        try:
            yield woken
        finally:
            for number, handler in before:
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_fd)
