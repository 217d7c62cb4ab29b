"""What the node keeps for itself: its own addresses, its services, the local ports that no subscriber may get."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jetplane import abi
from jetplane.config import Config, Service
from jetplane.dataplane import specialise
from jetplane.dataplane.maps import Map
from jetplane.model import V4_MAPPED, InnerAddress

_IP_PROTOCOL = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_HASH = 2654435769
_PROTOCOLS = ("tcp", "udp", "icmp")  # enum protocol of abi.h
_LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")  # of this network namespace; IPv6 uses it, too


def write_own_addresses(own: Map, slots: Map, wanted: Iterable[bytes]) -> None:
    """Make the map hold exactly these 16-byte addresses; new ones come before old ones go.

    Where something changes in a slot, the programs ask the map until that is done (ebpf/own.h).
    """
    keys = {bytes(address) for address in wanted}
    have = {bytes(key) for key, _ in own.items()}
    said = _slots(keys)
    changed = {index: said[index] for index, slot in slots.items() if (bytes(slot.address), slot.state) != said[index]}
    ask = abi.constants()["OWN_ASK"]
    slots.update_many((index, _slot(slots, address, ask)) for index, (address, _) in changed.items())
    own.update_many((key, 1) for key in keys - have)
    own.delete_many(have - keys)
    slots.update_many((index, _slot(slots, address, state)) for index, (address, state) in changed.items())


def _slots(own: Iterable[bytes]) -> list[tuple[bytes, int]]:
    """What each slot says: an address and a state."""
    constants = abi.constants()
    said = [(bytes(16), constants["OWN_NONE"])] * constants["OWN_SLOTS"]
    for address in own:
        index = own_slot(address)
        free = said[index][1] == constants["OWN_NONE"]
        said[index] = (address, constants["OWN_ONE"]) if free else (bytes(16), constants["OWN_ASK"])
    return said


def own_slot(address: bytes) -> int:
    """The slot of a 16-byte address; as own_slot_of() of own.h."""
    return (int.from_bytes(address[12:]) * _HASH & 0xFFFFFFFF) >> 24


def _slot(slots: Map, address: bytes, state: int) -> object:
    slot = slots.value(state=state)
    slot.address = type(slot.address).from_buffer_copy(address)
    return slot


def write_relay_addresses(relay: Map, own: Iterable[bytes], exits: Iterable[str]) -> None:
    """The node's own address of each family from which it speaks to exit nodes; none where it has none.

    The first that is global, and no exit address where there is a choice: that is for subscribers.
    """
    shared = {bytes(InnerAddress.parse(text)) for text in exits}
    for number, family in enumerate((4, 6)):
        able = [InnerAddress(address) for address in own if InnerAddress(address).family == family]
        able = sorted((a for a in able if not ipaddress.ip_address(a.packed).is_link_local), key=lambda a: a in shared)
        relay.update(number, bytes(able[0]) if able else bytes(16))


def write_services(services: Map, ports: Map, allow: Sequence[Service]) -> None:
    """Make the maps hold exactly the services of the configuration; new ones come before old ones go.

    The value is 1; it is 0 for IPv4 as a whole where a short IPv6 prefix would admit it, too, by its 16-byte form.
    """
    wanted: dict[bytes, int] = {}
    for service in allow:
        for text in service.sources:
            network = ipaddress.ip_network(text)
            if network.version == 6 and ipaddress.ip_address(V4_MAPPED + bytes(4)) in network:
                wanted.setdefault(_service_key(services, service, V4_MAPPED + bytes(4), 96), 0)
            form, skipped = (V4_MAPPED, 96) if network.version == 4 else (b"", 0)
            packed = form + network.network_address.packed
            wanted[_service_key(services, service, packed, skipped + network.prefixlen)] = 1
    have = {bytes(key): value for key, value in services.items()}
    services.update_many((key, value) for key, value in wanted.items() if have.get(key) != value)
    _write_ports(ports, allow)
    services.delete_many(have.keys() - wanted.keys())


def _write_ports(ports: Map, allow: Sequence[Service]) -> None:
    """One bit for each port of a service: who has none is refused without a look into the services."""
    constants = abi.constants()
    words = [0] * constants["PORT_WORDS"]
    for service in allow:
        place = (service.protocol == "udp") << 16 | service.port
        words[place // constants["PORTS_PER_WORD"]] |= 1 << place % constants["PORTS_PER_WORD"]
    for index, word in ports.items():
        if word.served != words[index]:
            word.served = words[index]
            ports.update(index, word)


def _service_key(services: Map, service: Service, source: bytes, bits: int) -> bytes:
    key = services.key(
        prefix_bits=abi.constants()["SERVICE_FIXED_BITS"] + bits,
        protocol=_IP_PROTOCOL[service.protocol],
        port=socket.htons(service.port),
    )
    key.source = type(key.source).from_buffer_copy(source)
    return bytes(key)


def own_exits(config: Config, own: Iterable[bytes]) -> list[int]:
    """Indices of the exit addresses that are assigned to the node, too."""
    addresses = set(own)
    exits = [InnerAddress.parse(text) for text in specialise.exits(config)]
    return [index for index, exit_address in enumerate(exits) if bytes(exit_address) in addresses]


def local_blocks(config: Config) -> dict[str, set[int]]:
    """Protocol → port blocks that the node's own sockets use.

    Those are the kernel's range for outgoing connections as it stands now, the ports of WireGuard, relays and services.
    """
    size = abi.constants()["PORTS_PER_BLOCK"]
    first, last = map(int, _LOCAL_PORTS.read_text(encoding="ascii").split())
    outgoing = set(range(first // size, last // size + 1))
    relay = config.relay
    ports = [tunnel.listen_port for tunnel in config.tunnel] + [target.listen_port for target in relay.to]
    listening = {port // size for port in ports}
    if relay.to:
        listening |= set(range(relay.first_port // size, (relay.first_port + relay.max_sessions - 1) // size + 1))
    blocks = {"tcp": set(outgoing), "udp": outgoing | listening}
    for service in config.guard.allow:
        blocks[service.protocol].add(service.port // size)
    return blocks


def reserve_blocks(pools: Map, exits: Iterable[int], blocks: dict[str, set[int]]) -> int:
    """Mark blocks as taken at these exit addresses; return how many pools that changed.

    A word is read and written back, so a claim of the data path in between would be lost: this is done before the
    programs are attached, and later only when an exit address becomes the node's own.
    """
    changed = 0
    for index in exits:
        for number, protocol in enumerate(_PROTOCOLS):
            key = index * len(_PROTOCOLS) + number
            pool = pools.lookup(key)
            before = bytes(pool)
            for block in blocks.get(protocol, ()):
                pool.taken[block // 64] |= 1 << block % 64
            if bytes(pool) != before:
                pools.update(key, pool)
                changed += 1
    return changed


def turn_known_sources(halves: Map, known: Map) -> None:
    """Forget which sources were known for two turns."""
    words = abi.constants()["KNOWN_WORDS"]
    with _turning(halves, "HALF_KNOWN") as older:
        known.update_many((older * words + word, 0) for word in range(words))


def turn_own_ports(halves: Map, ports: Map) -> None:
    """Forget which ports the node itself has not used for two turns.

    A bit that is set between reading and writing its word is lost: it costs a look for a socket.
    """
    with _turning(halves, "HALF_PORTS") as older:
        for index in [index for index, word in ports.items() if word.used[older]]:
            word = ports.lookup(index)
            word.used[older] = 0
            ports.update(index, word)


@contextmanager
def _turning(halves: Map, name: str) -> Iterator[int]:
    """The half that is not current, to be emptied; then it is current, and the other stays for another turn."""
    place = abi.constants()[name]
    older = 1 - halves.lookup(place).value
    yield older
    halves.update(place, older)
