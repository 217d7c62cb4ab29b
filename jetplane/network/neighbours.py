"""Keeps the next hops of relayed packets resolved: XDP uses the neighbours that the kernel knows, and cannot ask."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from jetplane.network.netlink import Netlink, interface_index


def keep(uplink: str, destinations: Iterable[str]) -> None:
    """Have the kernel resolve the next hops by `uplink` to these addresses, and to everybody else by default routes.

    An address without a route is passed over: what is relayed to it is dropped and counted. Raises KernelError.
    """
    ifindex = interface_index(uplink)
    with Netlink() as netlink:
        hops = {netlink.gateway(ifindex, address) for address in destinations}
        hops |= {netlink.default_gateway(ifindex, family) for family in (socket.AF_INET, socket.AF_INET6)}
        for hop in filter(None, hops):
            netlink.use_neighbour(ifindex, hop)
