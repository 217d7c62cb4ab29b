"""The lab's links, addresses and routes, over netlink. Each function works in the namespace it is given."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass

import pyroute2
import pyroute2.netlink.exceptions

from jetplane.errors import KernelError
from jetplane.lab import namespaces

_IFA_F_NODAD = 0x02  # linux/if_addr.h: the address is ours at once, without asking the link first


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link: where it is, what it is called, and its addresses with prefix lengths."""

    namespace: str
    name: str
    addresses: tuple[str, ...] = ()


def pair(one: End, other: End) -> None:
    """Make a virtual Ethernet pair (veth(4)), bring it up and give both ends their addresses."""

    def make() -> None:
        with pyroute2.IPRoute() as route:
            route.link("add", ifname=one.name, kind="veth", peer={"ifname": other.name, "net_ns_fd": other.namespace})

    namespaces.inside(one.namespace, make)
    for end in (one, other):
        set_up(end)


def set_up(end: End, *, mtu: int | None = None) -> None:
    """Give an existing interface its addresses and MTU, and bring it up."""

    def work() -> None:
        with pyroute2.IPRoute() as route:
            index = _index(route, end.name)
            if mtu is not None:
                route.link("set", index=index, mtu=mtu)
            for text in end.addresses:
                address, _, length = text.partition("/")
                route.addr("add", index=index, address=address, prefixlen=int(length), flags=_IFA_F_NODAD)
            route.link("set", index=index, state="up")

    namespaces.inside(end.namespace, work)


def add_routes(namespace: str, routes: Iterable[tuple[str, str, str]]) -> None:
    """Add routes given as (destination prefix, gateway or "", interface)."""

    def work() -> None:
        with pyroute2.IPRoute() as route:
            for destination, gateway, interface in routes:
                route.route(
                    "add",
                    dst=destination,
                    family=10 if ":" in destination else 2,
                    oif=_index(route, interface),
                    **({"gateway": gateway} if gateway else {}),
                )

    namespaces.inside(namespace, work)


def make_wireguard(namespace: str, name: str) -> bool:
    """Make a WireGuard interface in the kernel; False when this kernel has no WireGuard."""

    def work() -> bool:
        with pyroute2.IPRoute() as route:
            try:
                route.link("add", ifname=name, kind="wireguard")
            except pyroute2.netlink.exceptions.NetlinkError as error:
                if error.code == errno.EOPNOTSUPP:
                    return False
                raise KernelError(f"lab: adding {name}: {error}", errno=error.code) from None
        return True

    return namespaces.inside(namespace, work)


def present(namespace: str, name: str) -> bool:
    """Whether the namespace has an interface of this name."""

    def work() -> bool:
        with pyroute2.IPRoute() as route:
            return bool(route.link_lookup(ifname=name))

    return namespaces.inside(namespace, work)


def hardware_address(namespace: str, name: str) -> bytes:
    """Return the Ethernet address of an interface, 6 bytes."""

    def work() -> bytes:
        with pyroute2.IPRoute() as route:
            [link] = route.link("get", index=_index(route, name))
            return bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", ""))

    return namespaces.inside(namespace, work)


def _index(route: pyroute2.IPRoute, name: str) -> int:
    found = route.link_lookup(ifname=name)
    if not found:
        raise KernelError(f"lab: there is no interface {name}", errno=errno.ENODEV)
    return int(found[0])
