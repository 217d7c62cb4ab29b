"""Which tunnel a peer belongs to: a pure function of the configuration and of its addresses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jetplane.config import Config, tunnel_networks
from jetplane.errors import PeerError
from jetplane.model import V4_MAPPED, InnerAddress


class Tunnels:
    """The prefixes of all tunnels, ready to be compared with addresses in their 16-byte form."""

    __slots__ = ("_own", "_ranges")

    def __init__(self, config: Config) -> None:
        # First and last address of each prefix: comparing bytes compares addresses, and a peer has few prefixes to try.
        self._ranges: tuple[tuple[bytes, bytes, str], ...] = tuple(
            (_mapped(network.first, network.version), _mapped(network.last, network.version), tunnel.name)
            for tunnel in config.tunnel
            for network in tunnel_networks(tunnel)
        )
        self._own = {InnerAddress.parse(a.split("/")[0]): t.name for t in config.tunnel for a in t.addresses}

    def of(self, addresses: Sequence[InnerAddress]) -> str:
        """Name the tunnel whose prefixes hold all `addresses`. Raises PeerError when there is none, or the node's own
        address is among them."""
        names = set(self._names(addresses))
        if len(names) > 1:
            raise PeerError(f"allowed_ips: spread over tunnels {', '.join(sorted(names))}")
        if not names:
            raise PeerError("allowed_ips: is empty", hint='give the peer an address, like ["10.64.0.2/32"]')
        return names.pop()

    def _names(self, addresses: Sequence[InnerAddress]) -> Iterable[str]:
        for address in addresses:
            for first, last, name in self._ranges:
                if first <= address <= last:
                    if address in self._own:
                        raise PeerError(f"allowed_ips: is the node's own address on {name}")
                    yield name
                    break
            else:
                raise PeerError("allowed_ips: in no tunnel's prefix", hint="tunnel.addresses sets the prefixes")


def _mapped(number: int, version: int) -> bytes:
    return V4_MAPPED + number.to_bytes(4) if version == 4 else number.to_bytes(16)
