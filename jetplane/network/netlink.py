"""Links, addresses, routes, rules and proxies of this network namespace: all that is said over rtnetlink(7)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from jetplane.errors import KernelError
from jetplane.journal import Address, Link, Proxy, Route, Rule, Thing, Tunnel
from jetplane.network import messages
from jetplane.network.messages import MAIN_TABLE, PROTOCOL, HostRoute, Interface, LinkState

_FAMILIES = (socket.AF_INET, socket.AF_INET6)

# What the kernel answers when that which is to be removed, or the interface it was on, is gone.
_GONE = {errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO}

_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESRCH, errno.ENOENT}
_NTF_USE = 0x01  # linux/neighbour.h

_HINTS = {
    errno.EPERM: "run as root, or with CAP_NET_ADMIN",
    errno.ENODEV: "the interface is not there, or has gone in the meantime",
    errno.EOPNOTSUPP: "this kernel lacks it",
}


class Netlink:
    """A netlink socket in the network namespace of the thread that made it. Every method raises KernelError."""

    def __init__(self) -> None:
        # With strict checking, the kernel filters dumps itself: a full table of routes never gets here.
        self._route = IPRoute(strict_check=True)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._route.close()

    def links(self) -> dict[str, LinkState]:
        """Every interface by its name."""
        with _asking("reading the interfaces"):
            states = map(messages.link_state, self._route.get_links())
            return {state.name: state for state in states}

    def link(self, name: str) -> LinkState | None:
        """One interface, or None."""
        try:
            with _asking(f"reading interface {name}"):
                return messages.link_state(next(iter(self._route.link("get", ifname=name))))
        except KernelError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def addresses(self) -> tuple[tuple[str, Interface], ...]:
        """Every assigned address with its prefix length, after the name of its interface."""
        with _asking("reading the addresses"):
            return tuple(
                (messages.name_of(message["index"]), messages.interface_address(message))
                for message in self._route.get_addr()
            )

    def host_routes(self) -> tuple[HostRoute, ...]:
        """Every route of the main table but those to nowhere and those made here. May be many."""
        found = []
        with _asking("reading the routes"):
            for family in _FAMILIES:
                for message in self._dump("route", family=family, table=MAIN_TABLE, type=messages.UNICAST):
                    if message["proto"] != PROTOCOL and not message["flags"] & messages.CLONED:
                        found += messages.host_routes(message)
        return tuple(found)

    def gateway(self, ifindex: int, destination: str) -> str | None:
        """The next hop by this interface to an address, which may be the address itself; None when there is none."""
        try:
            with _asking(f"asking for the route to {destination}"):
                found = self._route.route("get", dst=destination, oif=ifindex, family=_family(destination))
        except KernelError as error:
            if error.errno in _NO_ROUTE:
                return None
            raise
        return next((message.get_attr("RTA_GATEWAY") or destination for message in found), None)

    def default_gateway(self, ifindex: int, family: int) -> str | None:
        """The next hop of a default route by this interface."""
        with _asking("reading the default routes"):
            found = self._route.get_default_routes(family=family)
            hops = [m.get_attr("RTA_GATEWAY") for m in found if m.get_attr("RTA_OIF") == ifindex]
        return next((hop for hop in hops if hop), None)

    def use_neighbour(self, ifindex: int, address: str) -> None:
        """Have the kernel resolve a neighbour, or check again, as if a packet had been sent to it."""
        with _asking(f"resolving the next hop {address}"):
            self._route.neigh("replace", dst=address, ifindex=ifindex, family=_family(address), flags=_NTF_USE, state=0)

    def things(self) -> frozenset[Thing]:
        """All addresses there are, and the routes, rules and proxies that may be ours."""
        with _asking("reading addresses, routes and rules"):
            found: set[Thing | None] = {Address(name, str(interface)) for name, interface in self.addresses()}
            for family in _FAMILIES:
                found.update(map(messages.rule, self._route.get_rules(family=family)))
                found.update(map(messages.route, self._dump("route", family=family, proto=PROTOCOL)))
                found.update(map(messages.proxy, self._dump("neigh", family=family, flags=messages.NTF_PROXY)))
        return frozenset(thing for thing in found if thing is not None)

    def add(self, thing: Address | Route | Rule | Proxy) -> None:
        """Make it."""
        with _asking(f"adding {thing}"):
            self._change("add", thing)

    def remove(self, thing: Thing) -> bool:
        """Take it away; False when it was gone already."""
        try:
            with _asking(f"removing {thing}"):
                if isinstance(thing, Tunnel):
                    self._route.link("del", index=socket.if_nametoindex(thing.interface))
                else:
                    self._change("del", thing)
        except KernelError as error:
            if error.errno in _GONE:
                return False
            raise
        return True

    def read(self, setting: Link) -> str | None:
        """The value of an interface's property; None when there is no such interface."""
        state = self.link(setting.interface)
        if state is None:
            return None
        return str(state.mtu) if setting.name == "mtu" else ("up" if state.up else "down")

    def write(self, setting: Link, value: str) -> None:
        """Change an interface's property."""
        change = {"mtu": int(value)} if setting.name == "mtu" else {"state": value}
        with _asking(f"setting {setting} to {value}"):
            self._route.link("set", index=socket.if_nametoindex(setting.interface), **change)

    def _change(self, how: str, thing: Address | Route | Rule | Proxy) -> None:
        match thing:
            case Address():
                self._route.addr(how, **messages.address_arguments(thing))
            case Route():
                self._route.route(how, **messages.route_arguments(thing))
            case Rule():
                self._route.rule(how, **messages.rule_arguments(thing))
            case Proxy():
                self._route.neigh(how, **messages.proxy_arguments(thing))

    def _dump(self, what: str, **header: Any) -> Iterator[Any]:
        """Ask for what matches the header. Giving pyroute2 a filter of our own puts `header` into the question."""
        found: Iterator[Any] = getattr(self._route, what)("dump", dump_filter=lambda _: True, **header)
        return found


def exists(name: str) -> bool:
    """Whether this namespace has an interface of this name."""
    with Netlink() as netlink:
        return netlink.link(name) is not None


def interface_index(name: str) -> int:
    """The index of an interface of this network namespace. Raises KernelError when there is none."""
    with _asking(f"interface {name}"):
        return socket.if_nametoindex(name)


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextmanager
def _asking(doing: str) -> Iterator[None]:
    """Turn what pyroute2 and the socket module raise into a KernelError."""
    try:
        yield
    except NetlinkError as error:
        said = error.args[1] if len(error.args) > 1 else os.strerror(error.code)
        raise KernelError(f"{doing}: {said}", errno=error.code, hint=_HINTS.get(error.code, "")) from None
    except OSError as error:
        number = error.errno or errno.ENODEV  # Python does not always pass on what if_nametoindex(3) said
        raise KernelError(f"{doing}: {os.strerror(number)}", errno=number, hint=_HINTS.get(number, "")) from None
