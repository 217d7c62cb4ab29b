"""The few questions that WireGuard asks of links, in the network namespace of the calling thread."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from jetplane.errors import BackendError

IFF_UP: Final = 1
_HINTS: Final = {
    errno.EPERM: "run as root, or with CAP_NET_ADMIN",
    errno.EOPNOTSUPP: 'this kernel has no WireGuard: load its module, or set wireguard.backend = "userspace"',
}


@dataclass(frozen=True, slots=True)
class Link:
    """An interface: `kind` as `ip -d link` calls it, empty for hardware and the loopback."""

    index: int
    kind: str
    up: bool


def find(name: str) -> Link | None:
    """Return the interface of that name, None when there is none."""
    with _netlink(f"{name}: looking it up") as route:
        try:
            (answer,) = route.link("get", ifname=name)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise
        return Link(answer["index"], answer.get(("linkinfo", "kind")) or "", bool(answer["flags"] & IFF_UP))


def add_wireguard(name: str) -> None:
    """Make a kernel WireGuard interface."""
    with _netlink(f"{name}: making the interface") as route:
        route.link("add", ifname=name, kind="wireguard")


def delete(index: int, name: str) -> None:
    """Remove an interface; already being gone is fine. `name` is for the message."""
    with _netlink(f"{name}: removing the interface") as route:
        try:
            route.link("del", index=index)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise


@contextmanager
def _netlink(doing: str) -> Iterator[IPRoute]:
    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        reason = os.strerror(error.code)
        raise BackendError(f"{doing}: {reason}", errno=error.code, hint=_HINTS.get(error.code, "")) from None
