"""Judges the exit nodes that this one relays to: whether there is a way to them, and none back to itself."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from jetplane.config import Config
from jetplane.preflight.facts import Check, Facts, Judgement


def _relays(config: Config, facts: Facts) -> Iterator[Check]:
    if config.uplink.interface not in facts.links:
        return  # another row says so
    for target in config.relay.to:
        exit_node, name = ip_address(target.endpoint.host), f"relay at port {target.listen_port}"
        owner = next((interface for interface, own in facts.addresses if own.ip == exit_node), None)
        way = _way(facts, exit_node)
        if owner:
            detail = f"{exit_node} is this node's own, of {owner}: packets would come back for ever"
            yield Check(name, False, detail, "name another exit node, or give subscribers the tunnel's own port")
        elif way is None:
            yield Check(
                name, False, f"there is no route to {exit_node}", "add one by the uplink, or correct the address"
            )
        elif way != config.uplink.interface:
            detail = f"the way to {exit_node} is by {way}, and answers that come in there are not looked at"
            yield Check(name, False, detail, f"route it by {config.uplink.interface}")
        elif not _speaks(config, facts, exit_node.version):
            detail = f"{config.uplink.interface} has no IPv{exit_node.version} address to send from"
            yield Check(
                name, False, detail, "assign one that is not link-local, or name the exit node by the other family"
            )
        else:
            yield Check(name, True, f"to {target.exit}, by {way}")


def _way(facts: Facts, address: IPv4Address | IPv6Address) -> str | None:
    """The interface by which the longest of the main table's prefixes leads to it."""
    leading = [route for route in facts.routes if address in route.destination]
    return max(leading, key=lambda route: route.destination.prefixlen).interface if leading else None


def _speaks(config: Config, facts: Facts, version: int) -> bool:
    uplink = config.uplink.interface
    return any(name == uplink and own.version == version and not own.is_link_local for name, own in facts.addresses)


CHECKS: tuple[Judgement, ...] = (_relays,)
