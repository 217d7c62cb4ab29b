"""Who has which name and address in the lab: pure arithmetic, no machine.

Only prefixes that are reserved for documentation and tests (RFC 5737, 3849, 6598 and 2544), so that nothing of
the lab can be mistaken for, or reach, anybody's network.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from itertools import islice
from typing import Literal

from jetplane.errors import ConfigurationError

UPLINK = "uplink0"
"""The node's interface towards the internet."""

OUTER = "outer0"
"""A subscriber's interface towards its provider."""

TO_NODE = "node0"
"""The internet's end of the node's uplink: what a watcher of the uplink would tap."""

NODE_IPV4 = IPv4Interface("198.51.100.2/30")
NODE_IPV6 = IPv6Interface("2001:db8:100::2/64")
GATEWAY_IPV4 = IPv4Interface("198.51.100.1/30")
GATEWAY_IPV6 = IPv6Interface("2001:db8:100::1/64")
SITES_IPV4 = ("192.0.2.10", "192.0.2.20")
SITES_IPV6 = ("2001:db8:1::10", "2001:db8:1::20")
INNER_IPV4 = IPv4Network("198.18.0.0/15")
INNER_IPV6 = IPv6Network("2001:db8:64::/48")
LISTEN_PORT = 51820
TUNNEL_MTU = 1420
SUBSCRIBERS = 2

_EXIT_IPV4 = IPv4Address("203.0.113.10")
_EXIT_IPV6 = IPv6Address("2001:db8:e::10")
_OUTER_IPV4 = IPv4Network("100.64.0.0/16")
_OUTER_IPV6 = IPv6Network("2001:db8:c0::/44")
_MOST_EXIT_ADDRESSES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LabOptions:
    """What a tester may choose."""

    peers: int = 0  # idle ones, besides the two subscribers
    nat_filtering: Literal["endpoint-independent", "address", "address-and-port"] = "address"
    exit_addresses: int = 1  # per family
    first_exit: int = 0  # where among the lab's exit addresses they begin: two labs that are joined need different ones
    transport: Literal["wireguard", "veth"] = "wireguard"
    backend: Literal["auto", "kernel", "userspace"] = "auto"
    tunnels: int = 1
    xdp: Literal["auto", "native", "generic"] = "auto"
    metrics_port: int = 9586
    up_mbit: int = 0  # of the plan that both subscribers have; 0 for no limit
    down_mbit: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be built, with a ConfigurationError."""
        if self.tunnels not in (1, 2, 4):
            raise ConfigurationError(f"lab: {self.tunnels} tunnels: expected 1, 2 or 4")
        if not 1 <= self.exit_addresses <= _MOST_EXIT_ADDRESSES:
            raise ConfigurationError(
                f"lab: {self.exit_addresses} exit addresses: expected 1 to {_MOST_EXIT_ADDRESSES} of each family"
            )
        if not 0 <= self.first_exit <= _MOST_EXIT_ADDRESSES:
            raise ConfigurationError(f"lab: first exit address {self.first_exit}: expected 0 to {_MOST_EXIT_ADDRESSES}")
        room = (INNER_IPV4.num_addresses // self.tunnel_count - 16) * self.tunnel_count
        if not 0 <= self.peers <= room:
            raise ConfigurationError(f"lab: {self.peers} idle peers: expected 0 to {room}")

    @property
    def tunnel_count(self) -> int:
        """An Ethernet pair has one far end, so each subscriber needs its own in the place of a shared tunnel."""
        return SUBSCRIBERS if self.transport == "veth" else self.tunnels


@dataclass(frozen=True, slots=True)
class TunnelPlan:
    """One tunnel interface of the node, and the prefixes its peers live in."""

    name: str
    listen_port: int
    ipv4: IPv4Interface  # the node's own address with the prefix
    ipv6: IPv6Interface


@dataclass(frozen=True, slots=True)
class SubscriberPlan:
    """One subscriber: its provider's side and its tunnel's side."""

    namespace: str
    interface: str  # its end of the tunnel
    provider_link: str  # the internet's end of its outer link
    tunnel: int  # index of the tunnel it uses
    inner_ipv4: IPv4Address
    inner_ipv6: IPv6Address
    outer_ipv4: IPv4Interface
    outer_ipv6: IPv6Interface
    provider_ipv4: IPv4Interface
    provider_ipv6: IPv6Interface


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """Every name and address of one lab."""

    node: str  # namespaces
    internet: str
    subscribers: tuple[SubscriberPlan, ...]
    tunnels: tuple[TunnelPlan, ...]
    exit_ipv4: tuple[str, ...]
    exit_ipv6: tuple[str, ...]

    @property
    def namespaces(self) -> dict[str, str]:
        """Role → name of the namespace."""
        roles = {f"subscriber{number}": plan.namespace for number, plan in enumerate(self.subscribers, 1)}
        return {**roles, "node": self.node, "internet": self.internet}

    def idle_peers(self, count: int) -> list[tuple[IPv4Address, IPv6Address]]:
        """Return the inner addresses of idle peers, spread over the tunnels."""
        spread = len(self.tunnels)
        return [_inner(self.tunnels[number % spread], 8 + number // spread) for number in range(count)]


def plan(lab: str, options: LabOptions) -> AddressPlan:
    """Lay out the lab called `lab`, a short text: interface names carry it and have 15 characters at most.

    Interface names are unique on the machine, not only in their namespace: wireguard-go's sockets share a directory.
    """
    exits = range(options.first_exit, options.first_exit + options.exit_addresses)
    prefix_length = INNER_IPV4.prefixlen + options.tunnel_count.bit_length() - 1
    prefixes = zip(INNER_IPV4.subnets(new_prefix=prefix_length), INNER_IPV6.subnets(new_prefix=64), strict=False)
    tunnels = tuple(
        TunnelPlan(
            name=f"jl{lab}n{number}",
            listen_port=LISTEN_PORT + number,
            ipv4=IPv4Interface((ipv4[1], ipv4.prefixlen)),
            ipv6=IPv6Interface((ipv6[1], ipv6.prefixlen)),
        )
        for number, (ipv4, ipv6) in enumerate(islice(prefixes, options.tunnel_count))
    )
    return AddressPlan(
        node=f"jetlab-{lab}-node",
        internet=f"jetlab-{lab}-internet",
        subscribers=tuple(_subscriber(lab, number, tunnels) for number in range(SUBSCRIBERS)),
        tunnels=tunnels,
        exit_ipv4=tuple(str(_EXIT_IPV4 + number) for number in exits),
        exit_ipv6=tuple(str(_EXIT_IPV6 + number) for number in exits),
    )


def _subscriber(lab: str, number: int, tunnels: tuple[TunnelPlan, ...]) -> SubscriberPlan:
    tunnel = number % len(tunnels)
    inner_ipv4, inner_ipv6 = _inner(tunnels[tunnel], 2 + number)
    ipv4 = _OUTER_IPV4[256 * (number + 1)]
    ipv6 = _OUTER_IPV6[(number + 1) << 80]
    return SubscriberPlan(
        namespace=f"jetlab-{lab}-subscriber{number + 1}",
        interface=f"jl{lab}s{number + 1}",
        provider_link=f"provider{number + 1}",
        tunnel=tunnel,
        inner_ipv4=inner_ipv4,
        inner_ipv6=inner_ipv6,
        outer_ipv4=IPv4Interface((ipv4 + 2, 30)),
        outer_ipv6=IPv6Interface((ipv6 + 2, 64)),
        provider_ipv4=IPv4Interface((ipv4 + 1, 30)),
        provider_ipv6=IPv6Interface((ipv6 + 1, 64)),
    )


def _inner(tunnel: TunnelPlan, number: int) -> tuple[IPv4Address, IPv6Address]:
    return tunnel.ipv4.network[number], tunnel.ipv6.network[number]
