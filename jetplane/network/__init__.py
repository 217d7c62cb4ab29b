"""The network of the node: addresses, routes, rules, sysctls and offloads, all remembered and put back."""

from jetplane.network.changes import ensure, fails_closed, owner, restore, uplink_addresses
from jetplane.network.neighbours import keep as keep_neighbours
from jetplane.network.netlink import exists, interface_index

__all__ = [
    "ensure",
    "exists",
    "fails_closed",
    "interface_index",
    "keep_neighbours",
    "owner",
    "restore",
    "uplink_addresses",
]
