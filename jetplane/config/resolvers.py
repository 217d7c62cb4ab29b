"""The DNS service: where it is, and what must hold for it once every tunnel is known."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import msgspec

from jetplane.config.tables import DNS_PORT, Config
from jetplane.config.values import fail
from jetplane.errors import ConfigurationError


def with_resolvers(config: Config, path: Path) -> Config:
    """The same with the addresses of the DNS service in their usual form, all of the tunnels' where none is named.

    Raises ConfigurationError naming file, key, value and expectation.
    """
    dns = config.dns
    if not dns.service:
        if dns.steer:
            raise fail(path, "dns.steer", True, "false while dns.service is: there would be nobody to answer")
        return config
    own = [str(ipaddress.ip_interface(text).ip) for tunnel in config.tunnel for text in tunnel.addresses]
    named = tuple(_own(text, own, path) for text in dns.addresses)
    if len(set(named)) != len(named):
        raise fail(path, "dns.addresses", list(dns.addresses), "each address once")
    _check_ports(config, path)
    found = named or tuple(own)
    if dns.steer:
        _check_families(own, found, path)
    return msgspec.structs.replace(config, dns=msgspec.structs.replace(dns, addresses=found))


def _own(text: str, own: list[str], path: Path) -> str:
    try:
        address = str(ipaddress.ip_address(text))
    except ValueError:
        raise fail(path, "dns.addresses", text, "an IPv4 or IPv6 address without a prefix length") from None
    if address not in own:
        raise fail(path, "dns.addresses", text, f"one of the tunnels' own addresses: {', '.join(own)}")
    return address


def _check_ports(config: Config, path: Path) -> None:
    for denied in config.policy.ports:
        if denied.first <= DNS_PORT <= denied.last:
            text = f"{denied.protocol}/{denied.first}" + (f"-{denied.last}" if denied.last > denied.first else "")
            raise fail(path, "policy.deny_ports", text, f"ports without {DNS_PORT}, which dns.service opens")
    for tunnel in config.tunnel:
        if tunnel.listen_port == DNS_PORT:
            raise ConfigurationError(
                f"{path}: tunnel {tunnel.name} listens at port {DNS_PORT}, which dns.service needs",
                hint="give the tunnel another listen_port, or set dns.service = false",
            )


def _check_families(own: list[str], found: tuple[str, ...], path: Path) -> None:
    """What is steered has to go somewhere, in every family that peers have."""
    for version in sorted({ipaddress.ip_address(text).version for text in own}):
        if not any(ipaddress.ip_address(text).version == version for text in found):
            raise fail(path, "dns.addresses", list(found), f"an IPv{version} address, too: dns.steer needs it")
