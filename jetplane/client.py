"""What a subscriber needs to reach this node: a configuration for wg-quick(8) and every WireGuard app.

Pure: keys and addresses come in as text, text goes out. Nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jetplane.endpoint import Endpoint

EVERYTHING = ("0.0.0.0/0", "::/0")
"""Both families always go into the tunnel: one that the node does not carry must not leave beside it."""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """One subscriber's side of a tunnel. Keys are base64, as wg(8) writes them."""

    private_key: str  # "" when only the subscriber has it
    addresses: tuple[str, ...]  # with prefix lengths
    dns: tuple[str, ...]
    mtu: int  # of the inner packets, bytes
    node_public_key: str
    endpoint: Endpoint
    preshared_key: str | None = None
    allowed_ips: tuple[str, ...] = EVERYTHING
    persistent_keepalive: int = 0  # seconds, 0 for off

    def __repr__(self) -> str:
        return "ClientConfig(hidden)"


NO_PRIVATE_KEY = "# PrivateKey = … put your private key here and remove the leading #"


def render(config: ClientConfig) -> str:
    """The file as wg-quick(8) reads it."""
    interface = [
        f"PrivateKey = {config.private_key}" if config.private_key else NO_PRIVATE_KEY,
        f"Address = {_list(config.addresses)}",
        f"DNS = {_list(config.dns)}" if config.dns else "",
        f"MTU = {config.mtu}",
    ]
    peer = [
        f"PublicKey = {config.node_public_key}",
        f"PresharedKey = {config.preshared_key}" if config.preshared_key else "",
        f"AllowedIPs = {_list(config.allowed_ips)}",
        f"Endpoint = {config.endpoint.text()}",
        f"PersistentKeepalive = {config.persistent_keepalive}" if config.persistent_keepalive else "",
    ]
    return _section("Interface", interface) + "\n" + _section("Peer", peer)


def _section(name: str, lines: Sequence[str]) -> str:
    return "\n".join((f"[{name}]", *filter(None, lines))) + "\n"


def _list(values: Sequence[str]) -> str:
    return ", ".join(values)
