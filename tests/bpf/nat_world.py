"""The node that the translation's tests are about: two subscribers, their exit addresses, and how packets must change.

Expected packets are built by scapy from the packet that went in; all their lengths and checksums are computed anew.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from jetplane import abi
from jetplane.dataplane.links import packed
from tests.bpf.harness import Node, Result, Tc
from tests.bpf.packets import ICMP, TCP, UDP, ICMPv6EchoReply, ICMPv6EchoRequest, Packet, dissect, ip, wire

FAMILIES = (4, 6)
PROTOCOLS = ("tcp", "udp", "icmp")
BLOCK_QUOTA = 32
NO_EXIT = abi.constants()["NO_EXIT"]
TICK_NS = 1 << 30

EXIT = {4: "203.0.113.10", 6: "2001:db8::a"}
"""The exit address of both subscribers."""
EXIT_2 = {4: "203.0.113.11", 6: "2001:db8::b"}
EXIT_INDEX = {4: 0, 6: 2}
SITE = {4: "198.51.100.7", 6: "2001:db8:f::7"}
OTHER = {4: "198.51.100.8", 6: "2001:db8:f::8"}
ROUTER = {4: "198.18.0.1", 6: "2001:db8:e::1"}
"""A router on the way, which sends ICMP errors."""
NODE = {4: "192.0.2.1", 6: "2001:db8:0:1::1"}
"""The uplink's own address."""
TUNNEL = {4: "10.64.0.1", 6: "fd00::1"}
INNER = {4: "10.64.3.4", 6: "fd00::34"}
INNER_2 = {4: "10.64.9.9", 6: "fd00::99"}
STRANGER = {4: "10.64.77.77", 6: "fd00::7777"}
"""In the tunnel's prefix, but nobody's."""

PEER, PEER_2 = 5, 6
TUNNEL_IFINDEX = 1
"""The loopback of the test's namespace: where BPF_PROG_TEST_RUN pretends that a packet came from."""


def prepare(node: Node) -> Node:
    """Give the node its own addresses and two subscribers."""
    for address in NODE.values():
        node.maps["own_addresses"].update(packed(address), 1)
    add_peer(node, PEER, INNER.values())
    add_peer(node, PEER_2, INNER_2.values())
    return node


def add_peer(node: Node, index: int, addresses: Any, **fields: Any) -> None:
    """Enter a subscriber, as the controller would."""
    peer = node.maps["peers"].value()
    peer.tunnel_ifindex = TUNNEL_IFINDEX
    peer.generation = 1
    peer.exit_index[:] = (EXIT_INDEX[4], EXIT_INDEX[6])
    peer.statistics = index + 1
    for name, value in fields.items():
        if name == "exit_index":
            peer.exit_index[:] = value
        else:
            setattr(peer, name, value)
    node.maps["peers"].update(index, peer)
    for address in addresses:
        node.maps["addresses"].update(packed(address), index)


def change_peer(node: Node, index: int, **fields: Any) -> None:
    """Change members of a subscriber's entry."""
    peer = node.maps["peers"].lookup(index)
    for name, value in fields.items():
        setattr(peer, name, value)
    node.maps["peers"].update(index, peer)


def query(version: int, identifier: int, *, reply: bool = False, payload: bytes = b"ping") -> Packet:
    """An ICMP echo."""
    if version == 4:
        return ICMP(type=0 if reply else 8, id=identifier, seq=3) / payload
    return (ICMPv6EchoReply if reply else ICMPv6EchoRequest)(id=identifier, seq=3, data=payload)


def out_packet(version: int, protocol: str, **given: Any) -> Packet:
    """A subscriber's packet to the site; `given` changes source, destination, ttl and what `_transport` takes."""
    header = ip(given.get("source", INNER[version]), given.get("destination", SITE[version]), ttl=given.get("ttl", 64))
    given = {"sport": 40000, "dport": 443, "payload": b"request", "flags": "S", **given}
    if protocol == "icmp":
        return header / query(version, given["sport"], payload=given["payload"])
    return header / _transport(protocol, given)


def answer(version: int, protocol: str, port: int, **given: Any) -> Packet:
    """The site's packet to an exit address and port; `given` as for `out_packet`."""
    header = ip(given.get("source", SITE[version]), given.get("destination", EXIT[version]), ttl=given.get("ttl", 60))
    given = {"sport": 443, "dport": port, "payload": b"answer", "flags": "SA", **given}
    if protocol == "icmp":
        return header / query(version, port, reply=True, payload=given["payload"])
    return header / _transport(protocol, given)


def _transport(protocol: str, given: dict[str, Any]) -> Packet:
    """TCP or UDP with sport, dport, payload; TCP with flags and options as well."""
    ports = {"sport": given["sport"], "dport": given["dport"]}
    transport: Packet = UDP(**ports)
    if protocol == "tcp":
        transport = TCP(**ports, flags=given["flags"], options=given.get("options", []))
    transport.add_payload(given["payload"])
    return transport


def changed(packet: Packet, *, hops: int = 1, source: Any = None, destination: Any = None) -> Packet:
    """The packet with other ends (address, port), fewer hops, and everything computed computed anew."""
    new = packet.copy()
    if new.version == 4:
        new.ttl -= hops
    else:
        new.hlim -= hops
    for end, address, port in ((source, "src", "sport"), (destination, "dst", "dport")):
        if end is None:
            continue
        setattr(new, address, end[0])
        transport = new.payload
        setattr(transport, port if isinstance(transport, (TCP, UDP)) else "id", end[1])
    return new


def ends(frame: bytes) -> tuple[tuple[str, int], tuple[str, int]]:
    """Source and destination of a frame, each as (address, port or identifier)."""
    packet = dissect(frame).payload
    transport = packet.payload
    if isinstance(transport, (TCP, UDP)):
        return (packet.src, transport.sport), (packet.dst, transport.dport)
    return (packet.src, transport.id), (packet.dst, transport.id)


def send_out(node: Node, packet: Packet, *, exits: dict[int, str] = EXIT, hops: int = 1, **context: int) -> int:
    """Send a subscriber's packet; assert that it left translated and right in every bit; return its external port."""
    result = node.run("nat_out", wire(packet), **context)
    assert Tc(result.verdict) is Tc.REDIRECT, f"counted: {dict(result.counted)}"
    (address, port), _ = ends(result.output)
    assert address == exits[packet.version]
    assert result.output == wire(changed(packet, hops=hops, source=(address, port)))
    assert result.counted["OUT_PACKETS"] == 1
    assert result.counted["OUT_BYTES"] == len(packet)
    return port


def send_in(node: Node, packet: Packet, inner: tuple[str, int]) -> None:
    """Send a packet from outside; assert that it reached `inner` (address, port), right in every bit."""
    result = node.run("nat_in", wire(packet))
    assert Tc(result.verdict) is Tc.REDIRECT, f"counted: {dict(result.counted)}"
    assert result.output == wire(changed(packet, destination=inner))
    assert result.counted == {"IN_PACKETS": 1, "IN_BYTES": len(packet)}


def is_dropped(node: Node, program: str, packet: Packet, reason: str, **context: int) -> Result:
    """Assert that the packet is dropped, and counted under this reason alone."""
    result = node.run(program, wire(packet), **context)
    assert (Tc(result.verdict), result.dropped) == (Tc.SHOT, reason), f"counted: {dict(result.counted)}"
    return result


PROHIBIT_MARK = abi.constants()["PROHIBIT_MARK"]


def is_prohibited(node: Node, packet: Packet, reason: str = "PORTS_EXHAUSTED") -> None:
    """Assert that a subscriber's packet is counted as dropped and left, unchanged, to the stack to be answered."""
    result = node.run("nat_out", wire(packet))
    assert (Tc(result.verdict), result.dropped) == (Tc.OK, reason), f"counted: {dict(result.counted)}"
    assert (result.mark, result.output) == (PROHIBIT_MARK, wire(packet))


def slot_of(version: int, protocol: str, port: int, exit_index: int | None = None) -> int:
    """Where the binding of an external port stands."""
    index = EXIT_INDEX[version] if exit_index is None else exit_index
    return (index * len(PROTOCOLS) + PROTOCOLS.index(protocol)) * 65536 + port


@dataclass(frozen=True, slots=True)
class Life:
    """A binding's word of life, taken apart (binding.h)."""

    sequence: int
    state: int
    tick: int

    @classmethod
    def of(cls, node: Node, slot: int) -> Life:
        word = node.maps["bindings"].lookup(slot).life
        return cls(word >> 40, word >> 32 & 0xFF, word & 0xFFFFFFFF)


FREE, DYING, ACTIVE, OPENING, ESTABLISHED, FIN_OUT, FIN_IN, CLOSING, RESET = range(9)
"""enum binding_state"""


def rewrite_life(node: Node, slot: int, *, age: float = 0, state: int | None = None) -> None:
    """Make a binding `age` seconds older, or put it into another state."""
    binding = node.maps["bindings"].lookup(slot)
    life = Life.of(node, slot)
    tick = (life.tick - int(age * 1e9) // TICK_NS) & 0xFFFFFFFF
    binding.life = life.sequence << 40 | (life.state if state is None else state) << 32 | tick
    node.maps["bindings"].update(slot, binding)


def sweep(node: Node) -> tuple[int, int, int]:
    """Sweep every block once: (expired, released, live)."""
    node.maps["sweep_cursor"].update(0, bytes(32))
    places = sum(node.maps[name].info.max_entries for name in ("blocks", "reuse_used"))
    node.run("sweep", bytes(14), repeat=places)
    end = node.maps["sweep_cursor"].lookup(0)
    return end.expired, end.released, end.live


def slots(node: Node) -> list[int]:
    """The slot of every binding that the way out knows."""
    return [int(slot) for _, slot in node.maps["endpoints"].items()]


def consistent(node: Node) -> int:
    """Assert what must hold whenever no packet is under way; return how many bindings there are.

    Every endpoint names a live binding of its own, every live binding is named by one, every port in use is a
    binding's, every block out of its pool has an owner who lists it, and no list names another's.
    """
    constants = abi.constants()
    per_block, per_pool = constants["PORTS_PER_BLOCK"], constants["BLOCKS_PER_POOL"]
    named = {}
    for key, slot in node.maps["endpoints"].items():
        assert slot not in named, "two endpoints at one external port"
        named[int(slot)] = bytes(key)
    used, owners = set(), {}
    for index, block in enumerate(value for _, value in node.maps["blocks"].items()):
        if block.owner:
            owners[index] = block.owner - 1
        if block.used:
            used |= {index * per_block + bit for bit in range(per_block) if block.used >> bit & 1}
    assert used == set(named), "a port in use without a binding, or the other way round"
    system_ports: Counter[int] = Counter()
    for slot, key in named.items():
        binding = node.maps["bindings"].lookup(slot)
        assert binding.life >> 32 & 0xFF > DYING
        exit_index, protocol = divmod(slot // 65536, 3)
        system_ports[(binding.peer * 2 + (exit_index >= EXIT_INDEX[6])) * 3 + protocol] += slot % 65536 < 1024
        port = binding.inner_port.to_bytes(2, "little")
        assert bytes(binding.inner.bytes) + port + bytes([slot // 65536 % 3, 0]) == key
    system = constants["SYSTEM_BLOCKS"]
    taken = {
        index * per_pool + word * 64 + bit
        for index, pool in enumerate(value for _, value in node.maps["pools"].items())
        for word in range(per_pool // 64)
        for bit in range(64)
        if pool.taken[word] >> bit & 1
    }
    assert taken == set(owners), "a block is out of its pool and nobody's, or the other way round"
    assert all(slot // per_block in taken or slot // per_block % per_pool < system for slot in named)
    listed = {}
    for index, held in enumerate(value for _, value in node.maps["peer_blocks"].items()):
        for block in (entry - 1 for entry in held.slot if entry):
            assert block not in listed, "two lists name one block"
            listed[block] = index // 6
        assert held.system_ports == system_ports[index]
    assert listed == owners, "a list names a block that is another's, or a block is in no list"
    return len(named)


def reused(node: Node) -> int:
    """Assert what must hold of connections at reused ports while no packet is under way; return how many there are.

    Each slot in use is named once from inside and once from outside, by the keys that stand in it; counts agree.
    """
    first = len(node.config.exit.ipv4 + node.config.exit.ipv6) * 3 * 65536
    used = {
        first + word * 64 + bit
        for word, value in node.maps["reuse_used"].items()
        for bit in range(64)
        if value >> bit & 1
    }
    inner = {int(slot): bytes(key) for key, slot in node.maps["reuse_inner"].items()}
    outer = {int(slot): key for key, slot in node.maps["reuse_outer"].items()}
    assert used == set(inner) == set(outer)
    per_exit = node.maps["reuse_used"].info.max_entries * 64 // len(node.config.exit.ipv4 + node.config.exit.ipv6)
    held: Counter[int] = Counter()
    for slot in used:
        binding = node.maps["bindings"].lookup(slot)
        assert binding.life >> 32 & 0xFF > DYING
        remote = binding.remotes[0].to_bytes(8, "little")
        key = bytes(binding.inner.bytes) + remote + binding.inner_port.to_bytes(2, "little") + bytes(6)
        assert key == inner[slot]
        exit_index = (slot - first) // per_exit
        assert (outer[slot].remote, outer[slot].exit_index, outer[slot].port) == (
            binding.remotes[0],
            exit_index,
            binding.reused_port,
        )
        held[(binding.peer * 2 + (exit_index >= EXIT_INDEX[6])) * 3] += 1
    for index, blocks in node.maps["peer_blocks"].items():
        assert blocks.reuses == held[index]
    return len(used)
