"""From the configuration to the header that makes the programs this node's own. Pure.

bcc compiles on the node, so what does not change while it runs is a constant, and branches that are off vanish.
"""

from __future__ import annotations

import hashlib
import ipaddress
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from jetplane.config import PRIVATE, Config, tunnel_networks
from jetplane.model import InnerAddress

ADDRESSES_PER_PEER = 4

_FILTERING = {
    "endpoint-independent": "FILTER_ENDPOINT_INDEPENDENT",
    "address": "FILTER_ADDRESS",
    "address-and-port": "FILTER_ADDRESS_AND_PORT",
}

ByteOrder = Literal["little", "big"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the header says that the configuration does not know."""

    pin_root: str  # directory of the pinned maps, no trailing slash
    uplink_ifindex: int
    byteorder: ByteOrder = sys.byteorder
    own: tuple[str, ...] = ()  # the node's addresses beside its tunnels, each with the length of its network's prefix


def sizes(config: Config) -> dict[str, int]:
    """The sizes that the maps are made with; part of the layout."""
    return {
        "MAX_PEERS": config.peers.max,
        "MAX_ADDRESSES": config.peers.max * ADDRESSES_PER_PEER,
        "MAX_BINDINGS": config.nat.max_bindings,
        "HINTS": 1 << (config.nat.max_bindings - 1).bit_length(),  # a power of two: found by a mask
        "MAX_REMOTES": config.nat.max_remotes,
        "MAX_REUSES": -(-config.nat.tcp_reuse_flows // 64) * 64 if config.nat.tcp_reuse else 64,
        "EXITS": len(exits(config)),
        "SOURCE_LISTS": int(config.guard.bogons or bool(config.guard.blocklists)),
        "MAX_BLOCKED": config.guard.max_blocked,
        "SOURCE_LINES": 1 << (config.guard.max_blocked // 4 - 1).bit_length(),  # half full when the lists are
        "STATISTICS": int(config.metrics.statistics),
        "RELAY_SESSIONS": config.relay.max_sessions,  # with and without relays: the first and the last move no state
    }


def exits(config: Config) -> tuple[str, ...]:
    """The exit addresses in the order of their index."""
    return config.exit.ipv4 + config.exit.ipv6


def node_header(config: Config, facts: Facts) -> str:
    """Return the text of node.h.

    Addresses and masks are words as a program loads them from a packet: wire order, in the machine's byte order.
    Ports are in host order, times in seconds, sizes in entries. Exit indices count IPv4 addresses first.
    """
    nat, v4, v6 = config.nat, config.exit.ipv4, config.exit.ipv6
    inner = [network for tunnel in config.tunnel for network in tunnel_networks(tunnel)]
    nodes = [ipaddress.ip_interface(text).ip for tunnel in config.tunnel for text in tunnel.addresses]

    def words(packed: bytes) -> list[str]:
        return [f"0x{int.from_bytes(packed[i : i + 4], facts.byteorder):08x}u" for i in range(0, len(packed), 4)]

    def indexed(texts: Iterable[str], first: int) -> list[list[str]]:
        return [[str(index), *words(ipaddress.ip_address(text).packed)] for index, text in enumerate(texts, first)]

    def relays() -> list[list[str]]:
        return [
            [str(target.listen_port), *words(InnerAddress.parse(target.endpoint.host)), str(target.endpoint.port)]
            for target in config.relay.to
        ]

    def mask(version: Literal[4, 6], length: int) -> bytes:
        return ipaddress.ip_network((0, length) if version == 4 else (b"\0" * 16, length)).netmask.packed

    def networks(version: int) -> list[list[str]]:
        return [words(n.network.packed) + words(n.netmask.packed) for n in inner if n.version == version]

    def own(version: int) -> list[list[str]]:
        return [words(address.packed) for address in nodes if address.version == version]

    resolvers = [ipaddress.ip_address(text) for text in config.dns.addresses if config.dns.service]

    def resolver(version: int) -> list[str]:
        """Where steered packets go: the first address of the family; of none, nowhere, and nothing is steered."""
        found = [address for address in resolvers if address.version == version]
        return words(found[0].packed if found else bytes(4 if version == 4 else 16))

    denied, allowed, places = policy(config, facts.own)

    def prefixes(found: Iterable[Network], version: int) -> list[list[str]]:
        return [words(n.network_address.packed) + words(n.netmask.packed) for n in found if n.version == version]

    def at(version: int) -> list[list[str]]:
        return [words(address.packed) for address in places if address.version == version]

    lines = [
        "/* Made from the node's configuration; see jetplane/dataplane/specialise.py. */",
        "#ifndef JETPLANE_NODE_H",
        "#define JETPLANE_NODE_H",
        f'#define PIN_ROOT "{facts.pin_root}"',
        f"#define UPLINK_IFINDEX {facts.uplink_ifindex}",
        f"#define TUNNEL_ETHERNET {int(config.transport == 'veth')}",
        f"#define KEY_ROTATION {int(any(tunnel.follows for tunnel in config.tunnel))}",
        f"#define TUNNEL_MTU {min(tunnel.mtu for tunnel in config.tunnel)}",
        _list("WIREGUARD_PORTS", [[str(tunnel.listen_port)] for tunnel in config.tunnel]),
        _list("EXIT_V4", indexed(v4, 0)),
        _list("EXIT_V6", indexed(v6, len(v4))),
        _list("INNER_V4", networks(4)),
        _list("INNER_V6", networks(6)),
        _list("TUNNEL_V4", own(4)),
        _list("TUNNEL_V6", own(6)),
        *(_list(f"DENIED_V{version}", prefixes(denied, version)) for version in (4, 6)),
        *(_list(f"ALLOWED_V{version}", prefixes(allowed, version)) for version in (4, 6)),
        *(_list(f"OWN_V{version}", at(version)) for version in (4, 6)),
        _list("DENIED_PORTS", ([f"PROTOCOL_{p.upper()}", str(a), str(b)] for p, a, b in config.policy.ports)),
        f"#define FLOWS_PER_SECOND {config.policy.new_flows_per_second}",
        f"#define FLOW_BURST {config.policy.new_flows_burst}ull",
        f"#define DNS_SERVICE {int(config.dns.service)}",
        f"#define DNS_STEER {int(config.dns.steer)}",
        *(_list(f"DNS_V{version}", [words(a.packed) for a in resolvers if a.version == version]) for version in (4, 6)),
        f"#define DNS_STEER_V4 {resolver(4)[0]}",
        *(f"#define DNS_STEER_V6_{place} {word}" for place, word in enumerate(resolver(6))),
        f"#define POLICY_ANSWERS {int(config.policy.answer == 'prohibited')}",
        *(f"#define {name} {value}" for name, value in sizes(config).items()),
        f"#define RELAYS_COUNT {len(config.relay.to)}",
        _list("RELAYS", relays()),
        f"#define RELAY_FIRST_PORT {config.relay.first_port}",
        f"#define UP_CLIP {config.metrics.up_clip_mb * 1_000_000}ull",
        f"#define DOWN_CLIP {config.metrics.down_clip_mb * 1_000_000}ull",
        f"#define NAT_FILTERING {_FILTERING[nat.filtering]}",
        f"#define INBOUND_REFRESH {int(nat.inbound_refresh)}",
        f"#define BLOCK_QUOTA {nat.block_quota}",
        f"#define PORT_PARITY {int(nat.port_parity)}",
        f"#define TCP_REUSE {int(nat.tcp_reuse)}",
        f"#define REUSE_QUOTA {nat.tcp_reuse_quota}",
        f"#define UDP_TIMEOUT_S {nat.udp_timeout}",
        f"#define TCP_ESTABLISHED_TIMEOUT_S {nat.tcp_established_timeout}",
        f"#define TCP_TRANSITORY_TIMEOUT_S {nat.tcp_transitory_timeout}",
        f"#define TCP_CLOSING_TIMEOUT_S {nat.tcp_closing_timeout}",
        f"#define ICMP_TIMEOUT_S {nat.icmp_timeout}",
        f"#define ICMP_ECHO_PER_SECOND {config.guard.icmp_echo_per_second}",
        f"#define GUARD_OBSERVES {int(config.guard.observe)}",
        f"#define HANDSHAKES_PER_SECOND {config.guard.handshakes_per_second}",
        f"#define STRANGER_HANDSHAKES_PER_SECOND {config.guard.stranger_handshakes_per_second}",
        f"#define HANDSHAKE_MASK_V4 {words(mask(4, config.guard.handshake_prefix_ipv4))[0]}",
        *(
            f"#define HANDSHAKE_MASK_V6_{place} {word}"
            for place, word in enumerate(words(mask(6, config.guard.handshake_prefix_ipv6)))
        ),
        "#endif",
    ]
    return "\n".join(lines) + "\n"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def policy(config: Config, own: Iterable[str]) -> tuple[tuple[Network, ...], tuple[Network, ...], tuple[Address, ...]]:
    """What is denied to subscribers, what is allowed in spite of that, and where the node's own stack listens.

    The last is denied whatever is allowed: the node's addresses, and those that speak to all of a network or to its
    routers, among which the node is. No prefix lies within another one of its list.
    """
    interfaces = [ipaddress.ip_interface(text) for text in own]
    places = {interface.ip for interface in interfaces}
    for interface in interfaces:
        if interface.network.prefixlen < interface.max_prefixlen - 1:
            places.add(interface.network.network_address)
            if interface.version == 4:
                places.add(interface.network.broadcast_address)
    texts = [*config.policy.deny, *(PRIVATE if config.policy.deny_private else ())]
    denied = [*map(ipaddress.ip_network, texts), *map(ipaddress.ip_network, places)]
    if config.policy.deny_own_networks:
        denied += [interface.network for interface in interfaces]
    allowed = map(ipaddress.ip_network, config.policy.allow)
    return _collapsed(denied), _collapsed(allowed), tuple(sorted(places, key=_order))


def _collapsed(networks: Iterable[Network]) -> tuple[Network, ...]:
    both = list(networks)
    v4 = ipaddress.collapse_addresses(n for n in both if isinstance(n, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(n for n in both if isinstance(n, ipaddress.IPv6Network))
    return (*v4, *v6)


def _order(address: Address) -> tuple[int, bytes]:
    return address.version, address.packed


def _list(name: str, rows: Iterable[Iterable[str]]) -> str:
    return " ".join([f"#define {name}(X)", *(f"X({', '.join(row)})" for row in rows)])


def layout_hash(config: Config, *, abi_h: str, maps_def: str) -> str:
    """Name the layout of the maps: while it stays the same, state outlives a change of the programs.

    The exit addresses are part of it, in order: their index is in the keys of the maps.
    """
    return text_hash(abi_h, maps_def, repr(sizes(config)), repr(exits(config)))


def build_hash(header: str, sources: Iterable[tuple[str, str]], bcc_version: str) -> str:
    """Name a build: the same header, sources (name, text) and compiler give the same programs."""
    return text_hash(header, bcc_version, *(part for source in sorted(sources) for part in source))


def text_hash(*parts: str) -> str:
    """16 hexadecimal digits that stand for these texts."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8) + encoded)  # so that no text can move from one part to the next
    return digest.hexdigest()[:16]
