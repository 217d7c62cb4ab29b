"""Judges interfaces and addresses: the uplink, its driver, exit addresses, and what clashes with the tunnels."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface
from typing import Literal

from jetplane.config import Config
from jetplane.network.messages import Network
from jetplane.network.wanted import exits
from jetplane.preflight.facts import Check, Facts, Judgement

_OUTER_HEADERS = 80  # IPv6 40, UDP 8, WireGuard 32
_LARGEST_NATIVE_MTU = 3498  # a packet and its headroom in one page of 4 KiB, without fragments

_RESETS_LINK = {"ixgbe", "ixgbevf", "i40e", "ice", "mlx4_en", "mlx5_core", "bnxt_en", "qede", "nfp"}
"""Drivers that rebuild their queues, and lose the link for it, when a first XDP program comes or the last one goes."""

_RESETS_AT_EXCHANGE = {"bnxt_en", "qede"}
"""Those that do it also when one program takes the place of another (bnxt_xdp_set, qede_xdp_set)."""

_SPARE_QUEUES = {"ena", "gve"}
"""Drivers that transmit for XDP on queues of their own, as many as are in use (kernel documentation of each)."""


def _uplink(config: Config, facts: Facts) -> Iterator[Check]:
    name = config.uplink.interface
    link = facts.links.get(name)
    if link is None:
        here = ", ".join(sorted(facts.links.keys() - {"lo"})) or "none"
        yield Check("uplink", False, f"{name}: there is no such interface", f"uplink.interface: here are {here}")
    elif not link.ethernet:
        yield Check("uplink", False, f"{name}: is not Ethernet", "choose the interface that has the neighbours")
    elif not link.up:
        yield Check("uplink", False, f"{name}: is down", f"ip link set {name} up")
    elif not link.running:
        yield Check("uplink", "warn", f"{name}: has no carrier", "is the cable in?")
    else:
        yield Check("uplink", True, f"{name}: up, {facts.driver or link.kind or 'unknown driver'}, MTU {link.mtu}")


def _size(config: Config, facts: Facts) -> Iterator[Check]:
    link = facts.links.get(config.uplink.interface)
    if link is None:
        return
    for tunnel in config.tunnel:
        if config.transport == "wireguard" and tunnel.mtu + _OUTER_HEADERS > link.mtu:
            detail = f"tunnel {tunnel.name}: {tunnel.mtu} bytes and WireGuard's {_OUTER_HEADERS} do not fit {link.name}"
            yield Check("MTU", "warn", detail, f"mtu = {link.mtu - _OUTER_HEADERS}, or outer packets are fragmented")
    if link.mtu > _LARGEST_NATIVE_MTU and config.uplink.xdp != "generic":
        detail = f"{link.name}: with {link.mtu} bytes most drivers refuse XDP"
        yield Check("MTU", "warn", detail, f"at most {_LARGEST_NATIVE_MTU}, or uplink.xdp = generic")


def _driver(config: Config, facts: Facts) -> Iterator[Check]:
    """What is known to go wrong with XDP; worse when the configuration insists on the driver's."""
    name = config.uplink.interface
    if name not in facts.links or config.uplink.xdp == "generic":
        return
    trap: Literal[False, "warn"] = False if config.uplink.xdp == "native" else "warn"
    stuck = [key for key in ("rx-lro", "rx-gro-hw") if (on := facts.offloads.get(key)) and on.on and not on.changeable]
    queues = facts.channels
    if facts.driver == "virtio_net" and "rx-gro-hw" in stuck:
        hint = (
            'uplink.xdp = "generic", or have the hypervisor switch guest offloads off (guest_tso4=off, guest_tso6=off)'
        )
        yield Check("XDP", trap, f"{name}: virtio_net refuses XDP while the host joins packets for it", hint)
    elif stuck:
        hint = 'uplink.xdp = "generic" does without'
        yield Check("XDP", trap, f"{name}: {', '.join(stuck)} is on and cannot be switched off", hint)
    elif facts.driver in _SPARE_QUEUES and queues and 2 * queues.combined > queues.most_combined:
        half = max(1, queues.most_combined // 2)
        detail = f"{name}: {facts.driver} needs half of its {queues.most_combined} queues spare for XDP"
        yield Check("XDP", trap, detail, f"ethtool -L {name} combined {half}")
    elif facts.driver in _RESETS_LINK:
        detail = f"{name}: {facts.driver} loses the link for seconds at the first start and at `jetplane down`"
        hint = "nothing to do; restarts and upgrades in between exchange programs in place"
        if facts.driver in _RESETS_AT_EXCHANGE:
            detail += ", and at each change of the guard's settings"
            hint = 'change them together and at a quiet hour; uplink.xdp = "generic" keeps the link and is slower'
        yield Check("XDP", "warn", detail, hint)
    else:
        yield Check("XDP", True, f"{name}: no known trap in {facts.driver or 'its driver'}")


def _programs(_: Config, facts: Facts) -> Iterator[Check]:
    yield from facts.answered("other programs", facts.programs)


def _exits(config: Config, facts: Facts) -> Iterator[Check]:
    uplink = config.uplink.interface
    if uplink not in facts.links:
        return
    found = exits(config, facts.addresses)
    if found.routed and not config.exit.routed:
        more = f" (and {len(found.routed) - 1} more)" if len(found.routed) > 1 else ""
        detail = f"{found.routed[0]}{more}: neither assigned to this machine nor in a prefix of {uplink}"
        hint = "assign it, or set exit.routed = true if your provider routes it to this machine"
        yield Check("exit addresses", False, detail, hint)
    else:
        kinds = (
            found.routed and f"{len(found.routed)} routed here, as the configuration says",
            found.on_link and f"{len(found.on_link)} answered for on {uplink}",
            found.own and f"{len(found.own)} the machine's own: its connections are kept to ports 61440-65535",
        )
        yield Check("exit addresses", True, "; ".join(kind for kind in kinds if kind))
    for family in sorted({ip.version for ip in found.own + found.on_link + found.routed}):
        if not any(route.destination.version == family and not route.destination.prefixlen for route in facts.routes):
            hint = "add one, or subscribers reach nothing by it"
            yield Check("default route", "warn", f"there is none for IPv{family}, but an exit address", hint)


def _tunnels(config: Config, facts: Facts) -> Iterator[Check]:
    for tunnel in config.tunnel:
        name = f"tunnel {tunnel.name}"
        link = facts.links.get(tunnel.name)
        if config.transport == "veth":
            if link is None or not link.ethernet:
                yield Check(name, False, "transport = veth: there is no such Ethernet interface", "make it beforehand")
                continue
        elif link is not None and tunnel.name not in facts.own_tunnels:
            hint = "remove it, or give the tunnel another name"
            yield Check(name, False, "an interface of this name exists and is not jetplane's", hint)
            continue
        prefixes = [ip_interface(text).network for text in tunnel.addresses]
        if any(prefix.version == 6 for prefix in prefixes) and not facts.ipv6:
            yield Check(
                name, False, "has an IPv6 address, but this kernel has no IPv6", "leave it out, or switch it on"
            )
            continue
        clashes = [clash for prefix in prefixes for clash in _clashes(config, facts, prefix)]
        yield from (Check(name, ok, detail, hint) for ok, detail, hint in clashes)
        if not clashes:
            yield Check(name, True, "its prefixes are free")


def _clashes(config: Config, facts: Facts, prefix: Network) -> Iterator[tuple[bool, str, str]]:
    """Where packets to peers, or to somebody else, would take the wrong way (RFC 4787, REQ-7).

    A wider route through another router is no clash but a choice: the tunnel's, being longer, comes first.
    """
    ours = {tunnel.name for tunnel in config.tunnel}
    hint = "give the tunnel a prefix of its own"
    for interface, address in facts.addresses:
        if interface not in ours and address.ip in prefix:
            yield False, f"{prefix} holds {address.ip}, an address of {interface}", hint
            return
    for route in facts.routes:
        other = route.destination
        if route.interface in ours or not other.prefixlen or other.version != prefix.version:
            continue
        if _is_within(other, prefix) or (_is_within(prefix, other) and not route.gateway):
            yield False, f"{prefix} clashes with {other}, which is behind {route.interface}", hint
            return


def _is_within(inner: Network, outer: Network) -> bool:
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _forwarding(config: Config, facts: Facts) -> Iterator[Check]:
    ours = {config.uplink.interface, "lo", *(tunnel.name for tunnel in config.tunnel)}
    others = {name for name, address in facts.addresses if address.version == 6 and not address.is_link_local} - ours
    if len(others) > 1 and facts.ipv6 and not facts.ipv6_forwarding:
        detail = f"IPv6 will also be forwarded among {', '.join(sorted(others))}: the kernel has one switch for all"
        yield Check("forwarding", "warn", detail, "forbid it in the firewall if that must not be")
    else:
        yield Check("forwarding", True, "for the uplink and the tunnels only")


CHECKS: tuple[Judgement, ...] = (_uplink, _size, _driver, _programs, _exits, _tunnels, _forwarding)
