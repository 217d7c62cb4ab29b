"""A way to the node that is as long as a real one: what a subscriber sends waits before it enters the tunnel.

A TUN device (Documentation/networking/tuntap.rst) has the default route. What the kernel writes into it is put into the
tunnel a round trip's time later, as it is, by a raw socket with a mark that leads past the TUN device. What comes back
comes at once. IPv4 only.
"""

from __future__ import annotations

import collections
import fcntl
import os
import select
import socket
import struct
import threading
import time
from contextlib import ExitStack
from typing import Self

from jetplane.errors import JetplaneError
from jetplane.lab import namespaces
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_SO_MARK = 36  # asm-generic/socket.h
_MARK = _TABLE = 77
_DEVICE = "delay0"
_LONGEST = 65536


class Delay:
    """Of one subscriber, by its place in the lab's plan. A context manager; the device ends with it."""

    def __init__(self, built: Lab, number: int) -> None:
        plan = built.plan.subscribers[number]
        self.namespace = plan.namespace
        self.inner = plan.inner_ipv4
        self._rtt_ms = 0
        self._lab = built.name
        self._tunnel = plan.interface
        self._gateway = built.plan.tunnels[plan.tunnel].ipv4.ip
        self._stack = ExitStack()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            device = namespaces.inside(self.namespace, _tun)
            stack.callback(os.close, device)
            raw = stack.enter_context(namespaces.inside(self.namespace, _raw))
            straight = f"default via {self._gateway} dev {self._tunnel}"
            for line, undo in (
                (f"link set {_DEVICE} up mtu 1400", None),
                (f"route add {straight} table {_TABLE}", f"route del {straight} table {_TABLE}"),
                (f"rule add fwmark {_MARK} lookup {_TABLE}", f"rule del fwmark {_MARK} lookup {_TABLE}"),
                (f"route replace default dev {_DEVICE} src {self.inner}", f"route replace {straight}"),
            ):
                self._ip(*line.split())
                if undo:
                    stack.callback(self._ip, *undo.split())
            thread = threading.Thread(target=self._carry, args=(device, raw), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(self._over.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def set(self, rtt_ms: int) -> None:
        """How long packets wait from now on, in milliseconds."""
        self._rtt_ms = rtt_ms

    def _carry(self, device: int, raw: socket.socket) -> None:
        waiting: collections.deque[tuple[float, bytes]] = collections.deque()
        ready = select.poll()  # select(2) takes no descriptor above 1023
        ready.register(device, select.POLLIN)
        while not self._over.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                packet = waiting.popleft()[1]
                raw.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
            rest = min(0.1, waiting[0][0] - now) if waiting else 0.1
            if ready.poll(1000 * rest):
                packet = os.read(device, _LONGEST)
                if packet[0] >> 4 == 4:  # the kernel speaks IPv6 on every link
                    waiting.append((time.monotonic() + self._rtt_ms / 1000, packet))

    def _ip(self, *arguments: str) -> None:
        done = namespaces.run(self.namespace, ["ip", *arguments], lab=self._lab, timeout=patience(20))
        if done.returncode:
            raise JetplaneError(f"bench: ip {' '.join(arguments[:2])}: {done.stderr.decode(errors='replace').strip()}")


def _tun() -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(device)
        raise JetplaneError(f"bench: {_DEVICE}: {error.strerror}") from None
    return device


def _raw() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    made.setsockopt(socket.SOL_SOCKET, _SO_MARK, _MARK)
    return made
