"""Pure: what the network of a node must look like, in the order in which it is made.

The rules that discard come first and what opens anything comes last, so that a start that is cut short is closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface

from jetplane import abi
from jetplane.config import Config, addresses_of
from jetplane.journal import Address, Feature, Link, Proxy, Route, Rule, Setting, Sysctl, Thing
from jetplane.network.messages import MAIN_TABLE, Interface
from jetplane.network.sysctl import IPV6_FORWARDING

PROXY_TABLE = 0x6A65
"""The routes that make the node answer for exit addresses on the link; "je", as in the mark that leads here."""

# Preference numbers: after the table of the node's own addresses (0), before everything an operator is likely to add.
_PROHIBITED, _PROXIED, _HANDED_OVER, _FROM_TUNNEL, _FROM_UPLINK, _FROM_NODE, _TO_INNER = range(59, 66)

_PATH_MTU_S = "180"
"""Path MTUs are remembered by the address of who is behind the path. RFC 8201, section 4, would have them kept for five
minutes; the promise is that nothing of a session outlives it by more than 210 s. The price is a packet, every three
minutes, of who sends longer ones than his path takes."""

_LOCAL_PORTS = "61440 65535"
"""Where the node's own connections start when an exit address is its own: the rest belongs to subscribers."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a setting must be."""

    setting: Setting
    value: str


Item = Thing | Value


@dataclass(frozen=True, slots=True)
class Facts:
    """What of the machine decides how its network must look."""

    addresses: tuple[tuple[str, Interface], ...] = ()  # interface, address with prefix length
    ipv6: bool = True  # the kernel has it
    uplink_accept_ra: str | None = None
    changeable: frozenset[Feature] = frozenset()


@dataclass(frozen=True, slots=True)
class Exits:
    """Exit addresses by how packets to them find this node."""

    own: tuple[IPv4Address | IPv6Address, ...]  # assigned to one of its interfaces
    on_link: tuple[IPv4Address | IPv6Address, ...]  # in a prefix of its uplink's: others must be told they are here
    routed: tuple[IPv4Address | IPv6Address, ...]  # if the provider does so: nothing here can tell


def exits(config: Config, addresses: tuple[tuple[str, Interface], ...]) -> Exits:
    """Tell the exit addresses apart."""
    assigned = {interface.ip for _, interface in addresses}
    uplink = [interface.network for name, interface in addresses if name == config.uplink.interface]
    wanted = list(map(ip_address, config.exit.ipv4 + config.exit.ipv6))
    foreign = [address for address in wanted if address not in assigned]
    return Exits(
        own=tuple(address for address in wanted if address in assigned),
        on_link=tuple(address for address in foreign if any(address in network for network in uplink)),
        routed=tuple(address for address in foreign if not any(address in network for network in uplink)),
    )


def wanted(config: Config, facts: Facts) -> tuple[Item, ...]:
    """Everything the node needs, in order."""
    families = (4, 6) if facts.ipv6 else (4,)
    found = exits(config, facts.addresses)
    return (
        *_rules(config, families, found),
        *(Route(f"{address}/{address.max_prefixlen}", MAIN_TABLE) for address in found.on_link + found.routed),
        *_tunnels(config, families),
        *_quiet(config, families),
        *_offloads(config, facts.changeable),
        *_own_ports(found),
        *_forwarding(config, families, facts.uplink_accept_ra),
        *_proxies(config, found),
    )


def _rules(config: Config, families: tuple[int, ...], found: Exits) -> Iterator[Item]:
    """Nothing is forwarded between tunnels and anything else unless a program of ours has marked it.

    What there was no port for has a mark of its own, by which the stack answers that it is prohibited. What
    the node's own stack is to answer otherwise (TTL spent, too big) is marked, and so is ARP, which is how the
    kernel comes to consult PROXY_TABLE (net/ipv4/arp.c wants a route, and the one to nowhere is none). What is for
    an address of the node's own never gets here: the table of these is always the first.
    """
    mark = abi.constants()["HANDOVER_MARK"]
    for family in families:
        yield Rule(family, _PROHIBITED, mark=abi.constants()["PROHIBIT_MARK"], prohibited=True)
        if any(address.version == family for address in found.on_link):
            yield Rule(family, _PROXIED, table=PROXY_TABLE, mark=mark)
        yield Rule(family, _HANDED_OVER, table=MAIN_TABLE, mark=mark)
        for tunnel in config.tunnel:
            yield Rule(family, _FROM_TUNNEL, interface=tunnel.name)
        yield Rule(family, _FROM_UPLINK, interface=config.uplink.interface)
    for tunnel in config.tunnel:
        for text in tunnel.addresses:
            network = ip_interface(text).network
            if network.version in families:
                yield Rule(network.version, _FROM_NODE, MAIN_TABLE, interface="lo", destination=str(network))
                yield Rule(network.version, _TO_INNER, destination=str(network))


def _tunnels(config: Config, families: tuple[int, ...]) -> Iterator[Item]:
    """The kernel's WireGuard clears send_redirects of "all" whenever an interface of its comes up (wg_open in
    drivers/net/wireguard/device.c). Doing it first is how it comes to be remembered and put back."""
    if config.transport == "wireguard":
        yield Value(_per_interface(4, "all", "send_redirects"), "0")
    for tunnel in config.tunnel:
        addresses = [interface for interface in map(ip_interface, tunnel.addresses) if interface.version in families]
        carried = {ip_interface(text).version for text in addresses_of(tunnel, config)}
        if 6 in families:
            yield Value(_per_interface(6, tunnel.name, "accept_ra"), "0")
        if 6 in carried and 6 in families:
            yield Value(_per_interface(6, tunnel.name, "disable_ipv6"), "0")
        yield Value(Link(tunnel.name, "mtu"), str(tunnel.mtu))
        for interface in addresses:
            yield Address(tunnel.name, str(interface))
        yield Value(Link(tunnel.name, "state"), "up")


def _quiet(config: Config, families: tuple[int, ...]) -> Iterator[Item]:
    """No line of the kernel's log names an address, no path is remembered for long, and no neighbour changes routes.

    For log_martians one of "all" and the interface is enough to switch it on, hence both.
    """
    for family in families:
        yield Value(Sysctl(f"net/ipv{family}/route/mtu_expires"), _PATH_MTU_S)
    yield Value(_per_interface(4, "all", "log_martians"), "0")
    for name in _interfaces(config):
        yield Value(_per_interface(4, name, "log_martians"), "0")
        for family in families:
            yield Value(_per_interface(family, name, "accept_redirects"), "0")


def _offloads(config: Config, changeable: frozenset[Feature]) -> Iterator[Item]:
    """UDP packets of one flow, QUIC above all, are handled in one go, as TCP's are; XDP wants single packets, so what
    the device itself joins must be off. The kernel drops LRO for a router anyway."""
    features = [(name, "rx-udp-gro-forwarding", "on") for name in _interfaces(config)]
    features += [(name, "rx-gro-list", "off") for name in _interfaces(config)]
    features += [(config.uplink.interface, name, "off") for name in ("rx-lro", "rx-gro-hw")]
    for interface, name, value in features:
        feature = Feature(interface, name)
        if feature in changeable:
            yield Value(feature, value)


def _own_ports(found: Exits) -> Iterator[Item]:
    """The setting covers TCP and UDP over both families."""
    if found.own:
        yield Value(Sysctl("net/ipv4/ip_local_port_range"), _LOCAL_PORTS)


def _forwarding(config: Config, families: tuple[int, ...], accept_ra: str | None) -> Iterator[Item]:
    """The programs redirect without it; the stack needs it to answer for a packet that it cannot forward.

    IPv4 is forwarded from the interfaces that need it, no others. IPv6 knows one switch for all (`sysctl` keeps it
    from changing other interfaces), and a router hears router advertisements only with accept_ra 2.
    With src_valid_mark, rp_filter looks a marked packet's source up as marked, and so finds a route in any mode.
    """
    if 6 in families:
        if accept_ra in ("1", "2"):
            yield Value(_per_interface(6, config.uplink.interface, "accept_ra"), "2")
        yield Value(Sysctl(IPV6_FORWARDING), "1")
    for name in _interfaces(config):
        yield Value(_per_interface(4, name, "src_valid_mark"), "1")
        for family in families:
            yield Value(_per_interface(family, name, "forwarding"), "1")
    if 6 in families:
        yield Value(_per_interface(6, "lo", "forwarding"), "1")  # where ebpf/next_hop.h asks for routes from


def _proxies(config: Config, found: Exits) -> Iterator[Item]:
    """Answer for exit addresses on the uplink's link at once. The route is what the kernel wants to see before it
    answers; packets take it only if marked, and no program marks one to an exit address."""
    uplink, somewhere_else = config.uplink.interface, config.tunnel[0].name
    for family in sorted({address.version for address in found.on_link}):
        yield Value(Sysctl(f"net/ipv{family}/neigh/{uplink}/proxy_delay"), "0")
        if family == 6:
            yield Value(_per_interface(6, "all", "proxy_ndp"), "1")
    for address in found.on_link:
        yield Route(f"{address}/{address.max_prefixlen}", PROXY_TABLE, somewhere_else)
        yield Proxy(uplink, str(address))


def _interfaces(config: Config) -> tuple[str, ...]:
    return (config.uplink.interface, *(tunnel.name for tunnel in config.tunnel))


def _per_interface(family: int, interface: str, name: str) -> Sysctl:
    return Sysctl(f"net/ipv{family}/conf/{interface}/{name}")
