"""Between rtnetlink(7)'s messages, as pyroute2 gives and takes them, and what jetplane calls the same things."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_interface, ip_network
from typing import Any

from jetplane.journal import Address, Proxy, Route, Rule

MAIN_TABLE = 254  # linux/rtnetlink.h, RT_TABLE_MAIN
PROTOCOL = 106
"""Marks routes and rules as jetplane's, as in `ip route show proto 106`: no other program has this number there."""

UNICAST, _BLACKHOLE = 1, 6  # linux/rtnetlink.h, RTN_…
CLONED = 0x200  # linux/rtnetlink.h, RTM_F_CLONED: a cached route
NTF_PROXY = 0x08  # linux/neighbour.h
_DISCARD, _PROHIBIT = 6, 8  # linux/fib_rules.h, FR_ACT_BLACKHOLE and FR_ACT_PROHIBIT
_NO_DAD = 0x02  # linux/if_addr.h: the address is ours at once, without asking the link first
_ETHERNET = 1  # linux/if_arp.h
_IFF_UP, _IFF_RUNNING = 0x1, 0x40  # linux/if.h

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class LinkState:
    """An interface as it is."""

    name: str
    index: int
    up: bool
    running: bool  # up, and with a carrier
    ethernet: bool
    mtu: int
    kind: str  # "wireguard", "tun", "veth"…; empty for hardware
    xdp_program: int = 0  # its id


@dataclass(frozen=True, slots=True)
class HostRoute:
    """A route of the main table that leads somewhere."""

    destination: Network
    interface: str
    gateway: bool  # through another router, not to hosts on the link


def family_of(address: str) -> socket.AddressFamily:
    """AF_INET or AF_INET6, for an address or a prefix."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def link_state(message: Any) -> LinkState:
    """Read an RTM_NEWLINK."""
    information, xdp = message.get_attr("IFLA_LINKINFO"), message.get_attr("IFLA_XDP")
    return LinkState(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        up=bool(message["flags"] & _IFF_UP),
        running=bool(message["flags"] & _IFF_UP and message["flags"] & _IFF_RUNNING),
        ethernet=message["ifi_type"] == _ETHERNET,
        mtu=message.get_attr("IFLA_MTU"),
        kind=(information and information.get_attr("IFLA_INFO_KIND")) or "",
        xdp_program=(xdp and xdp.get_attr("IFLA_XDP_PROG_ID")) or 0,
    )


def interface_address(message: Any) -> Interface:
    """Read an RTM_NEWADDR. IFA_LOCAL is the address itself where IFA_ADDRESS is the far end's."""
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return ip_interface(f"{address}/{message['prefixlen']}")


def address_arguments(address: Address) -> dict[str, Any]:
    """What pyroute2's `addr` wants to be told."""
    host, _, length = address.address.partition("/")
    index = socket.if_nametoindex(address.interface)
    return {"index": index, "address": host, "prefixlen": int(length), "flags": _NO_DAD}


def host_routes(message: Any) -> list[HostRoute]:
    """Read an RTM_NEWROUTE; one with several next hops makes several."""
    everywhere = "::" if message["family"] == socket.AF_INET6 else "0.0.0.0"
    destination = ip_network(f"{message.get_attr('RTA_DST') or everywhere}/{message['dst_len']}")
    hops = message.get_attr("RTA_MULTIPATH")
    if hops is not None:
        return [HostRoute(destination, name_of(hop["oif"]), bool(hop.get_attr("RTA_GATEWAY"))) for hop in hops]
    gateway = message.get_attr("RTA_GATEWAY") or message.get_attr("RTA_VIA")
    return [HostRoute(destination, name_of(message.get_attr("RTA_OIF")), bool(gateway))]


def route(message: Any) -> Route:
    """Read an RTM_NEWROUTE. An IPv6 route to nowhere carries the loopback interface."""
    interface = "" if message["type"] == _BLACKHOLE else name_of(message.get_attr("RTA_OIF"))
    return Route(_prefix(message.get_attr("RTA_DST"), message["dst_len"]), message.get_attr("RTA_TABLE"), interface)


def route_arguments(route: Route) -> dict[str, Any]:
    """What pyroute2's `route` wants to be told."""
    way = {"oif": socket.if_nametoindex(route.interface)} if route.interface else {"type": "blackhole"}
    family = family_of(route.destination)
    return {"dst": route.destination, "family": family, "table": route.table, "proto": PROTOCOL, **way}


def rule(message: Any) -> Rule | None:
    """Read an RTM_NEWRULE; None when it is somebody else's."""
    if message.get_attr("FRA_PROTOCOL") != PROTOCOL:
        return None
    return Rule(
        family=6 if message["family"] == socket.AF_INET6 else 4,
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=0 if message["action"] in (_DISCARD, _PROHIBIT) else message.get_attr("FRA_TABLE"),
        mark=message.get_attr("FRA_FWMARK") or 0,
        interface=message.get_attr("FRA_IIFNAME") or "",
        destination=_prefix(message.get_attr("FRA_DST"), message["dst_len"]),
        prohibited=message["action"] == _PROHIBIT,
    )


def rule_arguments(rule: Rule) -> dict[str, Any]:
    """What pyroute2's `rule` wants to be told."""
    address, _, length = rule.destination.partition("/")
    return {
        "family": socket.AF_INET6 if rule.family == 6 else socket.AF_INET,
        "priority": rule.priority,
        "protocol": PROTOCOL,
        **({"fwmark": rule.mark} if rule.mark else {}),
        **({"iifname": rule.interface} if rule.interface else {}),
        **({"dst": address, "dst_len": int(length)} if address else {}),
        **({"table": rule.table} if rule.table else {"action": "prohibit" if rule.prohibited else "blackhole"}),
    }


def proxy(message: Any) -> Proxy:
    """Read an RTM_NEWNEIGH that is a proxy."""
    return Proxy(name_of(message["ifindex"]), message.get_attr("NDA_DST"))


def proxy_arguments(proxy: Proxy) -> dict[str, Any]:
    """What pyroute2's `neigh` wants to be told."""
    index = socket.if_nametoindex(proxy.interface)
    return {"ifindex": index, "dst": proxy.address, "family": family_of(proxy.address), "flags": NTF_PROXY}


def name_of(index: int | None) -> str:
    """The name of an interface; empty when it has gone since the kernel answered."""
    try:
        return socket.if_indextoname(index or 0)
    except OSError:
        return ""


def _prefix(address: str | None, length: int) -> str:
    return f"{address}/{length}" if address else ""
