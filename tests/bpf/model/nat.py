"""A model of the translation: what must come of each packet, told from the RFCs and the README.

It knows nothing of maps, hashes or words of life. Where the programs choose by chance (block, port), it is told what
they chose and says whether they might. Fragments, and TCP's reuse of ports when there are no others, are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Literal

from tests.bpf.model.life import Connection, Timers, idle_limit
from tests.bpf.model.packets import End, Error, Packet, Protocol, Segment
from tests.bpf.model.ports import Blocks, External

Filtering = Literal["endpoint-independent", "address", "address-and-port"]
UNROUTABLE_4 = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
UNROUTABLE_6 = ("::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8")


@dataclass(frozen=True, slots=True)
class Settings:
    filtering: Filtering
    inbound_refresh: bool
    block_quota: int
    timers: Timers
    mtu: int
    exits: frozenset[str]
    inner: tuple[str, ...]
    """The tunnels' prefixes."""
    node: frozenset[str]
    """The node's own addresses on the uplink."""
    tunnel: frozenset[str]
    """And on the tunnels, where it answers echoes."""
    denied: tuple[str, ...]
    """By the node's policy."""


@dataclass(slots=True)
class Peer:
    addresses: frozenset[str]
    exits: dict[int, str]
    """By version of IP."""
    tunnel: int
    """0: removed."""
    generation: int = 1


@dataclass(slots=True)
class Binding:
    peer: int
    generation: int
    inner: End
    external: External
    used: float
    connection: Connection = field(default_factory=Connection)
    remotes: set[End] = field(default_factory=set)
    faded: set[End] = field(default_factory=set)
    """Remotes of connections that have ended: whether they are still let in is the programs' choice."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Refused. Where several reasons hold, any of them may be the one that is counted."""

    reasons: frozenset[str]


@dataclass(frozen=True, slots=True)
class Forward:
    """Sent on, changed: to the uplink, or into the subscriber's tunnel."""

    packet: Packet
    tunnel: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """To another subscriber's exit address: it comes in again as if from the uplink (RFC 4787, REQ-9)."""

    packet: Packet


@dataclass(frozen=True, slots=True)
class Stack:
    """For the node's own stack, which answers as a router must; `is_local`: as a host."""

    packet: Packet
    is_local: bool = False


Verdict = Drop | Forward | Turn | Stack


class Nat:
    def __init__(self, settings: Settings, peers: dict[int, Peer]) -> None:
        self.settings, self.peers, self.now = settings, peers, 0.0
        self.bindings: dict[tuple[Protocol, End], Binding] = {}
        self.external: dict[External, Binding] = {}
        self.blocks = Blocks(settings.block_quota)

    # From a tunnel.

    def out(self, packet: Packet, tunnel: int, chosen: End | None) -> Verdict:
        """What must come of a subscriber's packet. `chosen`: the source it left with, if it did.

        Raises AssertionError when a new binding is at a port that it must not have.
        """
        target = packet.destination.address if isinstance(packet, Segment) else packet.destination
        if target in self.settings.tunnel and is_echo_request(packet):
            return Stack(packet, is_local=True)
        if refusal := self._refuse_destination(target):
            # Addresses of the node other than its tunnels' are known by their look-up only, once the binding was met.
            if target in self.settings.node and isinstance(packet, Segment) and packet.ttl > 1:
                self._standing((packet.protocol, packet.source), tunnel)
            return refusal
        if packet.ttl <= 1:
            return Stack(packet)
        turns = target in self.settings.exits
        if isinstance(packet, Error):
            return self._leave(self._error_out(packet, tunnel), turns=turns)
        if packet.protocol == "icmp" and packet.reply:
            return drop("PROTOCOL", "NO_BINDING")
        return self._leave(self._session_out(packet, tunnel, chosen), turns=turns)

    def _refuse_destination(self, target: str) -> Drop | None:
        if target in self.settings.node | self.settings.tunnel or is_within(target, self.settings.inner):
            return drop("TUNNEL_DESTINATION")
        if is_within(target, UNROUTABLE_4 + UNROUTABLE_6):
            return drop("UNROUTABLE")
        return drop("POLICY_DESTINATION") if is_within(target, self.settings.denied) else None

    def _leave(self, result: Packet | Drop, *, turns: bool) -> Verdict:
        if isinstance(result, Drop):
            return result
        # A packet that turns round is one hop away from the other subscriber: its way in counts it.
        return Turn(result) if turns else Forward(result.hop())

    def _session_out(self, packet: Segment, tunnel: int, chosen: End | None) -> Segment | Drop:
        key = packet.protocol, packet.source
        binding = self._standing(key, tunnel) or self._create(packet, tunnel, chosen)
        if isinstance(binding, Drop):
            return binding
        remote = self._remote(packet.protocol, packet.destination)
        shared = len(binding.remotes | {remote}) > 1
        if packet.protocol == "tcp" and binding.connection.see(packet.flags, "out", shared=shared):
            binding.faded |= binding.remotes
            binding.remotes.clear()
        binding.remotes.add(remote)
        binding.faded.discard(remote)
        binding.used = self.now
        return packet.from_(binding.external.end).clamped(self.settings.mtu)

    def _standing(self, key: tuple[Protocol, End], tunnel: int) -> Binding | None:
        """The subscriber's binding. One that is dead ends here, for its endpoint has been met again."""
        binding = self.bindings.get(key)
        if binding is None:
            return None
        if not self._is_idle(binding) and not self._is_orphan(binding):
            return binding if self.peers[binding.peer].tunnel == tunnel else None
        self._end(binding)
        return None

    def _create(self, packet: Segment, tunnel: int, chosen: End | None) -> Binding | Drop:
        number = self._owner(packet.source.address, tunnel)
        if number is None:
            return drop("UNKNOWN_SOURCE")
        address = self.peers[number].exits.get(packet.version)
        if address is None:
            return drop("NO_EXIT")
        taken = {port: binding.peer for port, binding in self.external.items()}
        if self.blocks.is_full(number, address, packet.protocol, packet.source, taken):
            return drop("PORTS_EXHAUSTED")
        assert chosen, f"{packet} made no binding"
        external = External(packet.protocol, chosen)
        objection = self.blocks.objection(number, address, packet.source, external, self.external)
        assert not objection, f"{chosen} for {packet.source}: {objection}"
        binding = Binding(number, self.peers[number].generation, packet.source, external, self.now)
        self.bindings[packet.protocol, packet.source] = self.external[external] = binding
        return binding

    def _error_out(self, packet: Error, tunnel: int) -> Error | Drop:
        """About a packet that the subscriber was sent (RFC 5508, REQ-5 and REQ-6)."""
        about = packet.about
        binding = self.bindings.get((about.protocol, about.destination))
        if binding is None or self._is_idle(binding) or self._is_orphan(binding):
            return drop("STRAY_ERROR")
        mine = self.peers[binding.peer].tunnel == tunnel and packet.source == about.destination.address
        if not mine or (about.protocol == "icmp" and not about.reply):
            return drop("STRAY_ERROR")
        end = binding.external.end
        return replace(packet, source=end.address, about=about.to(end))

    # From the uplink.

    def inbound(self, packet: Packet, *, passed: bool) -> Verdict:
        """What must come of a packet to an exit address. `passed`: the programs let it in; where both are right."""
        if isinstance(packet, Error):
            return self._error_in(packet, passed=passed)
        binding = self._bound(packet.protocol, packet.destination)
        if packet.protocol == "icmp" and not packet.reply:
            return drop("NO_BINDING", "PROTOCOL")
        if isinstance(binding, Drop):
            return binding
        if not self._lets_in(binding, packet.source, passed=passed):
            return drop("FILTERED")
        if packet.protocol == "tcp":
            binding.connection.see(packet.flags, "in", shared=len(binding.remotes) > 1)
        # Who is outside must not keep alive what was never answered, is reset or closed (RFC 4787, REQ-6).
        if self.settings.inbound_refresh and (packet.protocol != "tcp" or binding.connection.heeds(packet.flags)):
            binding.used = self.now
        inside = packet.to(binding.inner)
        if packet.ttl <= 1 or packet.length > self.settings.mtu:
            return Stack(inside)
        return Forward(inside.hop().clamped(self.settings.mtu), self.peers[binding.peer].tunnel)

    def _error_in(self, packet: Error, *, passed: bool) -> Verdict:
        """About a packet that left (RFC 5508, REQ-3 and REQ-4); it neither ends nor refreshes anything."""
        about = packet.about
        if packet.destination != about.source.address or about.reply:
            return drop("STRAY_ERROR")
        binding = self._bound(about.protocol, about.source)
        if isinstance(binding, Drop):
            return binding if "STALE_PEER" in binding.reasons else drop("STRAY_ERROR")
        if not self._lets_in(binding, about.destination, passed=passed):
            return drop("FILTERED")
        if packet.ttl <= 1:
            return drop("STRAY_ERROR")
        inside = replace(packet, destination=binding.inner.address, about=about.from_(binding.inner))
        return Forward(inside.hop(), self.peers[binding.peer].tunnel)

    def _bound(self, protocol: Protocol, end: End) -> Binding | Drop:
        binding = self.external.get(External(protocol, end))
        if binding is None or self._is_idle(binding):
            return drop("NO_BINDING")
        return drop("STALE_PEER") if self._is_orphan(binding) else binding

    def _lets_in(self, binding: Binding, source: End, *, passed: bool) -> bool:
        if self.settings.filtering == "endpoint-independent":
            return True
        remote = self._remote(binding.external.protocol, source)
        return remote in binding.remotes or (passed and remote in binding.faded)

    def _remote(self, protocol: Protocol, end: End) -> End:
        """A remote as the filter tells it from others (RFC 4787, section 5); ICMP has no ports."""
        by_address = self.settings.filtering != "address-and-port" or protocol == "icmp"
        return End(end.address, 0) if by_address else end

    # What the node itself sends, and what the controller does.

    def own_error(self, packet: Error) -> Verdict:
        """The stack's error about what it was handed: towards the site it speaks of the exit address."""
        binding = self.bindings.get((packet.about.protocol, packet.about.destination))
        if binding is None or self._is_idle(binding):
            return drop("LEAK")
        return Forward(replace(packet, about=packet.about.to(binding.external.end)))

    def sweep(self) -> tuple[int, int, int]:
        """End what has idled or lost its subscriber, return empty blocks: (expired, released, live)."""
        dead = [b for b in self.external.values() if self._is_idle(b) or self._is_orphan(b)]
        for binding in dead:
            self._end(binding)
        used = {port.block for port in self.external}
        empty = [block for block in self.blocks.holder if block not in used]
        for block in empty:
            del self.blocks.holder[block]
        return len(dead), len(empty), len(self.external)

    def _end(self, binding: Binding) -> None:
        del self.external[binding.external], self.bindings[binding.external.protocol, binding.inner]

    def _is_idle(self, binding: Binding) -> bool:
        limit = idle_limit(binding.external.protocol, binding.connection, self.settings.timers)
        return self.now - binding.used > limit

    def _is_orphan(self, binding: Binding) -> bool:
        peer = self.peers[binding.peer]
        return not peer.tunnel or peer.generation != binding.generation

    def _owner(self, address: str, tunnel: int) -> int | None:
        """Whose address this is, in this tunnel."""
        for number, peer in self.peers.items():
            if address in peer.addresses and peer.tunnel == tunnel:
                return number
        return None


def is_echo_request(packet: Packet) -> bool:
    return isinstance(packet, Segment) and packet.protocol == "icmp" and not packet.reply


@cache
def is_within(address: str, prefixes: tuple[str, ...]) -> bool:
    return any(ip_address(address) in ip_network(prefix) for prefix in prefixes)


def drop(*reasons: str) -> Drop:
    return Drop(frozenset(reasons))
