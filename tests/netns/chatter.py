"""A subscriber that never stops sending, by UDP and TCP, in both families; and a site that counts what arrives."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jetplane.lab import servers
from jetplane.lab.addresses import SITES_IPV4, SITES_IPV6
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import wait_until
from tests.netns import nat_place as place
from tests.netns.nat_place import FAMILIES

SITES = {4: SITES_IPV4[1], 6: SITES_IPV6[1]}
_PAUSE_S = 0.01
_PIECE = bytes(3000)
_EXCHANGES = 10
"""Of a connection, so that it lasts a while: its port stays taken for minutes, and a peer has a quota of them."""


class Chatter:
    """Numbered datagrams every ten milliseconds in each family, and one TCP connection after the other."""

    def __init__(self, lab: Lab, number: int) -> None:
        self._lab, self._number = lab, number
        self._stop = threading.Event()
        self.sent = dict.fromkeys(FAMILIES, 0)
        self.connections = dict.fromkeys(FAMILIES, 0)
        self._arrived: dict[int, set[int]] = {family: set() for family in FAMILIES}
        self._sites = {family: place.udp(lab.plan.internet, family, address=SITES[family]) for family in FAMILIES}
        for site in self._sites.values():
            site.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            site.settimeout(0.1)
        work = (self._send, self._receive, self._connect)
        self._threads = [
            threading.Thread(target=each, args=(family,), daemon=True) for family in FAMILIES for each in work
        ]
        for thread in self._threads:
            thread.start()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more datagrams have left in each family."""
        goals = {family: sent + count for family, sent in self.sent.items()}
        wait_until(f"{count} datagrams", lambda: all(self.sent[family] >= goals[family] for family in FAMILIES))

    def wait_for_arrivals(self, *, seconds: float = 30) -> None:
        """Wait until what is sent from now on arrives again, by UDP and TCP."""
        sent, connections = dict(self.sent), dict(self.connections)

        def arrives() -> bool:
            return all(
                max(self._arrived[family], default=0) > sent[family] and self.connections[family] > connections[family]
                for family in FAMILIES
            )

        wait_until("traffic to arrive again", arrives, seconds=seconds)

    def lost(self, since: dict[int, int]) -> dict[int, int]:
        """Of the datagrams sent since then, how many have not arrived. Call it when traffic flows."""
        until = dict(self.sent)
        self.wait_for_arrivals()
        return {
            family: len(set(range(since[family] + 1, until[family] + 1)) - self._arrived[family]) for family in FAMILIES
        }

    def _send(self, family: int) -> None:
        with place.udp(place.subscriber(self._lab, self._number), family) as client:
            target = self._sites[family].getsockname()[:2]
            while not self._stop.wait(_PAUSE_S):
                self.sent[family] += 1
                with contextlib.suppress(OSError):  # the way is gone, or an answer that it is
                    client.sendto(struct.pack(">Q", self.sent[family]), target)

    def _receive(self, family: int) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                self._arrived[family].add(struct.unpack(">Q", self._sites[family].recv(100))[0])

    def _connect(self, family: int) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError), place.tcp(place.subscriber(self._lab, self._number), family) as client:
                client.settimeout(0.3)
                client.connect((SITES[family], servers.ECHO_PORT))
                for _ in range(_EXCHANGES):
                    self._exchange(client)
                    self._stop.wait(2 * _PAUSE_S)
                self.connections[family] += 1
            self._stop.wait(_PAUSE_S)

    def _exchange(self, client: socket.socket) -> None:
        client.sendall(_PIECE)
        received = 0
        while received < len(_PIECE) and (more := client.recv(65536)):
            received += len(more)

    def close(self) -> None:
        """Fall silent."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for site in self._sites.values():
            site.close()


@contextmanager
def chatter(lab: Lab, number: int = 0) -> Iterator[Chatter]:
    """Let a subscriber send meanwhile; traffic flows when this is entered."""
    made = Chatter(lab, number)
    try:
        made.wait_for_arrivals()
        yield made
    finally:
        made.close()
