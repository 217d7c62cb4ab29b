"""How long a binding may idle: RFC 4787 REQ-5 (UDP), RFC 5508 REQ-2 (ICMP), RFC 5382 REQ-5 and RFC 7857 (TCP)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tests.bpf.model.packets import Protocol

Way = Literal["out", "in"]


@dataclass(frozen=True, slots=True)
class Timers:
    """Seconds."""

    udp: int
    icmp: int
    established: int
    transitory: int


@dataclass(slots=True)
class Connection:
    """What a NAT knows of a TCP connection (RFC 6146, section 3.5.2.2; sessions begin inside only).

    Several connections may share a binding. Then the end of one is not the end of the binding, and what ends it is
    not listened to.
    """

    answered: bool = False
    reset: bool = False
    finished: set[Way] = field(default_factory=set)

    @property
    def lasts(self) -> bool:
        """Entitled to the long timer."""
        return self.answered and not self.reset and len(self.finished) < 2

    @property
    def over(self) -> bool:
        return self.reset or len(self.finished) == 2

    def heeds(self, flags: str) -> bool:
        """A segment from outside with these flags, just seen, may keep it alive, if packets from outside may at all."""
        return self.lasts and "R" not in flags

    def see(self, flags: str, way: Way, *, shared: bool) -> bool:
        """Follow one segment. True: a new connection begins where the old one had ended."""
        if "R" in flags:
            if self.answered and not shared:
                self.reset = True
                self.finished.clear()
        elif "S" in flags:
            if way == "in":
                self.answered = True
            elif self.over:
                self.answered = self.reset = False
                self.finished.clear()
                return True
        elif "F" in flags and not shared:
            if self.answered and not self.reset:
                self.finished.add(way)
        elif way == "out":
            self.reset = False  # a forged RST: the connection goes on (RFC 7857, section 2)
        return False


def idle_limit(protocol: Protocol, connection: Connection, timers: Timers) -> int:
    """Seconds without a packet from inside after which the binding is dead."""
    if protocol == "udp":
        return timers.udp
    if protocol == "icmp":
        return timers.icmp
    return timers.established if connection.lasts else timers.transitory
