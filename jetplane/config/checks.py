"""What the values must satisfy together."""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Literal

import netaddr

from jetplane.config.tables import MOST_PREFIXES, Config, DeniedPorts, Metrics, tunnel_networks
from jetplane.config.values import fail, read_address, read_network, toml
from jetplane.errors import ConfigurationError


def _check_exit(config: Config, path: Path) -> None:
    families: tuple[tuple[Literal[4, 6], tuple[str, ...]], ...] = ((4, config.exit.ipv4), (6, config.exit.ipv6))
    for version, texts in families:
        key = f"exit.ipv{version}"
        for text in texts:
            address = read_address(text, version)
            if address is None or not address.is_unicast() or address.is_loopback() or address.is_link_local():
                raise fail(path, key, text, f"a unicast IPv{version} address without a prefix length")
        if len(set(map(netaddr.IPAddress, texts))) != len(texts):
            raise fail(path, key, list(texts), "each address once")
    if not config.exit.ipv4 and not config.exit.ipv6:
        raise ConfigurationError(f"{path}: exit: no exit address", hint="set exit.ipv4, exit.ipv6 or both")
    if len(config.exit.ipv4) + len(config.exit.ipv6) > 64:
        raise fail(path, "exit", len(config.exit.ipv4) + len(config.exit.ipv6), "at most 64 exit addresses in all")


def _check_tunnels(config: Config, path: Path) -> None:
    if not config.tunnel:
        raise ConfigurationError(f"{path}: tunnel: is missing", hint="add a [[tunnel]] table")
    for what in ("name", "listen_port"):
        seen: set[object] = set()
        for index, tunnel in enumerate(config.tunnel):
            value = getattr(tunnel, what)
            if value in seen:
                raise fail(path, f"tunnel[{index}].{what}", value, "a value no other tunnel has")
            seen.add(value)
    networks: list[netaddr.IPNetwork] = []
    exits = [netaddr.IPAddress(text) for text in config.exit.ipv4 + config.exit.ipv6]
    for index, tunnel in enumerate(config.tunnel):
        key = f"tunnel[{index}].addresses"
        if tunnel.name == config.uplink.interface:
            raise fail(path, f"tunnel[{index}].name", tunnel.name, "a name other than the uplink's")
        if tunnel.follows:
            _check_follower(config, index, path)
        elif not tunnel.addresses:
            raise fail(path, key, [], "at least one address with its prefix length")
        for text in tunnel.addresses:
            network = read_network(text)
            if network is None or "/" not in text or network.size < 4:
                raise fail(path, key, text, "an address with the prefix length of its peers, like 10.64.0.1/16")
            for other in networks:
                if network.cidr in other or other in network.cidr:
                    raise fail(path, key, text, f"a prefix that does not overlap {other}")
            for exit_address in exits:
                if exit_address in network.cidr:
                    raise fail(path, key, text, f"a prefix without the exit address {exit_address}")
            networks.append(network.cidr)


def _check_follower(config: Config, index: int, path: Path) -> None:
    tunnel = config.tunnel[index]
    key = f"tunnel[{index}].follows"
    if tunnel.addresses:
        raise fail(path, f"tunnel[{index}].addresses", list(tunnel.addresses), "none beside `follows`")
    if not any(other.name == tunnel.follows and not other.follows for other in config.tunnel):
        raise fail(path, key, tunnel.follows, "the name of a tunnel that has addresses")
    if [other.follows for other in config.tunnel].count(tunnel.follows) > 1:
        raise fail(path, key, tunnel.follows, "a tunnel that no other one follows")


def _check_guard(config: Config, path: Path) -> None:
    for index, service in enumerate(config.guard.allow):
        key = f"guard.allow[{index}].sources"
        if not service.sources:
            raise fail(path, key, [], 'at least one prefix; "0.0.0.0/0" and "::/0" admit everyone')
        for text in service.sources:
            network = read_network(text)
            if network is None or network.ip != network.cidr.ip:
                raise fail(path, key, text, "a prefix like 192.0.2.0/24, without host bits")


def _check_policy(config: Config, path: Path) -> None:
    policy = config.policy
    for key in ("deny", "allow"):
        for text in getattr(policy, key):
            network = read_network(text)
            if network is None or network.ip != network.cidr.ip:
                raise fail(path, f"policy.{key}", text, "a prefix like 192.0.2.0/24, without host bits")
    if len(policy.deny) + len(policy.allow) > MOST_PREFIXES:
        count = len(policy.deny) + len(policy.allow)
        raise fail(path, "policy", count, f"at most {MOST_PREFIXES} prefixes in deny and allow together")
    for text in policy.deny_ports:
        try:
            DeniedPorts.parse(text)
        except ValueError as error:
            raise fail(path, "policy.deny_ports", text, f"something like tcp/25; it {error}") from None


_RELAY_PORTS_END = 61440
"""The node's own sockets take their ports from here on upwards."""


def _check_relay(config: Config, path: Path) -> None:
    relay = config.relay
    taken = {tunnel.listen_port for tunnel in config.tunnel}
    taken |= {service.port for service in config.guard.allow if service.protocol == "udp"}
    for index, target in enumerate(relay.to):
        key = f"relay.to[{index}]"
        try:
            host = target.endpoint.host
        except ConfigurationError:
            host = ""
        address = read_address(host)
        if address is None or (address.version == 6) != target.exit.startswith("["):
            raise fail(path, f"{key}.exit", target.exit, "address:port, like 192.0.2.1:51820 or [2001:db8::1]:51820")
        if not address.is_unicast() or address.is_loopback() or address.is_link_local():
            raise fail(path, f"{key}.exit", target.exit, "a unicast address")
        if any(address in network for tunnel in config.tunnel for network in tunnel_networks(tunnel)):
            raise fail(path, f"{key}.exit", target.exit, "another node; this is an address inside one of the tunnels")
        if host in config.exit.ipv4 + config.exit.ipv6:
            raise fail(path, f"{key}.exit", target.exit, "another node; this one would send to itself")
        if target.listen_port in taken:
            raise fail(path, f"{key}.listen_port", target.listen_port, "a port that nothing else here listens at")
        taken.add(target.listen_port)
    if relay.to and relay.first_port + relay.max_sessions > _RELAY_PORTS_END:
        raise fail(
            path,
            "relay.first_port",
            relay.first_port,
            f"max_sessions ports from there on, all below {_RELAY_PORTS_END}",
        )
    for port in sorted(taken) if relay.to else ():
        if relay.first_port <= port < relay.first_port + relay.max_sessions:
            raise fail(path, "relay.first_port", relay.first_port, f"a range of max_sessions ports without {port}")


def _check_metrics(config: Config, path: Path) -> None:
    if read_address(config.metrics.listen) is None:
        raise fail(path, "metrics.listen", config.metrics.listen, "an IPv4 or IPv6 address")
    _check_metrics_tls(config.metrics, path)
    for key in ("active_epoch", "volume_epoch"):
        length = getattr(config.metrics, key)
        if 86_400 % length:
            raise fail(path, f"metrics.{key}", length, "seconds of which a whole number makes a day, like 3600")


def _check_metrics_tls(metrics: Metrics, path: Path) -> None:
    files = (metrics.tls_cert_file, metrics.tls_key_file, metrics.tls_client_ca_file)
    if any(files) and not all(files):
        raise ConfigurationError(
            f"{path}: metrics: tls_cert_file, tls_key_file and tls_client_ca_file belong together",
            hint="without an authority of the clients anybody could scrape",
        )
    address = read_address(metrics.listen)
    if address is not None and not address.is_loopback() and not any(files):  # the address :: is false
        raise ConfigurationError(
            f"{path}: metrics.listen = {toml(metrics.listen)}: plain HTTP only goes over the loopback",
            hint="set metrics.tls_cert_file, tls_key_file and tls_client_ca_file, or listen on 127.0.0.1",
        )


def _check_plans(config: Config, path: Path) -> None:
    if config.peers.default_plan not in config.plan:
        raise fail(path, "peers.default_plan", config.peers.default_plan, f"one of {', '.join(sorted(config.plan))}")


def _check_client(config: Config, path: Path) -> None:
    for text in config.client.dns:
        if read_address(text) is None:
            raise fail(path, "client.dns", text, "an IPv4 or IPv6 address")


def _check_nats(config: Config, path: Path) -> None:
    nats = config.nats
    for text in nats.servers:
        if not _is_nats_server(text):
            raise fail(path, "nats.servers", text, "tls://HOST:PORT, or nats://HOST:PORT on this machine's loopback")
    if bool(nats.tls_cert_file) != bool(nats.tls_key_file):
        raise ConfigurationError(f"{path}: nats: tls_cert_file and tls_key_file belong together")
    for key in ("servers", "bucket"):
        if config.peers.source == "nats" and not getattr(nats, key):
            raise ConfigurationError(f'{path}: nats.{key}: is missing; peers.source = "nats" needs it')


def _is_nats_server(text: str) -> bool:
    """Records hold secrets: in clear they may only cross the loopback. Passwords have no place in a URL."""
    try:
        url = urllib.parse.urlsplit(text)
        port = url.port
    except ValueError:
        return False
    if url.username is not None or url.path or url.query or url.fragment or not url.hostname or port == 0:
        return False
    address = read_address(url.hostname)
    loopback = url.hostname == "localhost" or (address is not None and address.is_loopback())
    return url.scheme == "tls" or (url.scheme == "nats" and loopback)


CHECKS = (
    _check_exit,
    _check_tunnels,
    _check_guard,
    _check_policy,
    _check_relay,
    _check_metrics,
    _check_plans,
    _check_client,
    _check_nats,
)
"""Each raises ConfigurationError naming file, key, value and expectation; earlier ones are relied on."""
