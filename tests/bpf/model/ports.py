"""Which external port a new binding may have: port classes, port blocks, quota, paired pooling."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from tests.bpf.model.packets import End, Protocol

SYSTEM_PORTS = 1024
PORTS_PER_BLOCK = 64
SYSTEM_PORT_QUOTA = 64


class External(NamedTuple):
    """A port of a protocol at an exit address: there is at most one binding at each."""

    protocol: Protocol
    end: End

    @property
    def block(self) -> tuple[Protocol, str, int]:
        return self.protocol, self.end.address, self.end.port // PORTS_PER_BLOCK


class Blocks:
    """Who holds which block of ports; a block stays its holder's until a sweep finds it empty."""

    def __init__(self, quota: int) -> None:
        self.quota = quota
        self.holder: dict[tuple[Protocol, str, int], int] = {}

    def held(self, peer: int, protocol: Protocol, version: int) -> list[tuple[Protocol, str, int]]:
        return [
            block
            for block, holder in self.holder.items()
            if holder == peer and block[0] == protocol and End(block[1], 0).version == version
        ]

    def objection(self, peer: int, exit_address: str, inner: End, chosen: External, taken: Collection[External]) -> str:
        """Why the chosen port must not be the binding's; "" when it may. A block that is drawn becomes the peer's."""
        protocol, (address, port) = chosen
        if address != exit_address:
            return "not the peer's exit address (RFC 4787, REQ-2)"
        if chosen in taken:
            return "two bindings at one port (RFC 4787, REQ-3)"
        if port == 0:
            return "port 0 is none"
        system = is_system(protocol, inner.port)
        if system != (port < SYSTEM_PORTS):
            return "of the other class of ports (RFC 4787, REQ-3a)"
        if system:
            return ""
        holder = self.holder.setdefault(chosen.block, peer)
        if holder != peer:
            return "in another peer's block"
        if len(self.held(peer, protocol, inner.version)) > self.quota:
            return "more blocks than the quota"
        return ""

    def is_full(
        self, peer: int, exit_address: str, protocol: Protocol, inner: End, taken: Mapping[External, int]
    ) -> bool:
        """No port is left that a new binding might have. `taken`: who holds each port."""
        family = [
            port
            for port, holder in taken.items()
            if holder == peer and port.protocol == protocol and port.end.version == inner.version
        ]
        if is_system(protocol, inner.port):
            return sum(port.end.port < SYSTEM_PORTS for port in family) >= SYSTEM_PORT_QUOTA
        here = {port for port in family if port.end.address == exit_address and port.end.port >= SYSTEM_PORTS}
        blocks = self.held(peer, protocol, inner.version)
        room = sum(PORTS_PER_BLOCK for block in blocks if block[1] == exit_address)
        return len(blocks) >= self.quota and len(here) >= room


def is_system(protocol: Protocol, port: int) -> bool:
    """Identifiers of ICMP queries know no classes."""
    return protocol != "icmp" and port < SYSTEM_PORTS
