"""No WireGuard at all: an Ethernet device made beforehand stands in for the tunnel, to measure without cryptography.

Not a VPN. Nothing is encrypted and nobody is authenticated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jetplane.errors import BackendError
from jetplane.model import Observed, ObservedPeer, PublicKey
from jetplane.plan import DiscardEndpoint, MoveAddresses, PeerStep, RemovePeer, SetPeer
from jetplane.wireguard.interface import Device, Kind


class Absent:
    """Remembers its peers in this process only; the interface must be there already and is never removed."""

    kind: Kind = "veth"

    def __init__(self) -> None:
        self._peers: dict[str, dict[PublicKey, ObservedPeer]] = {}

    def create(self, name: str) -> None:
        """Check that the interface is there. Raises BackendError."""
        if name not in _interfaces():
            raise BackendError(f"tunnel {name}: is not there", hint="with transport = veth, make it beforehand")

    def configure(self, device: Device) -> None:
        """Nothing to configure."""

    def delete(self, name: str) -> None:
        """Forget its peers; the interface is not ours."""
        self._peers.pop(name, None)

    def apply(self, name: str, steps: Sequence[PeerStep]) -> None:
        """Remember what was asked for."""
        peers = self._peers.setdefault(name, {})
        for step in steps:
            match step:
                case RemovePeer(public_key):
                    peers.pop(public_key, None)
                case SetPeer(peer):
                    peers[peer.public_key] = ObservedPeer(
                        peer.public_key, peer.allowed_ips, peer.persistent_keepalive, peer.preshared_key is not None
                    )
                case MoveAddresses() | DiscardEndpoint():
                    pass  # nobody is authenticated, so no address has an owner here; SetPeer follows

    def observe(self, name: str) -> Observed:
        """Return what was asked for."""
        return dict(self._peers.get(name, {}))


def _interfaces() -> set[str]:
    """Names of the interfaces of this network namespace (proc(5), /proc/net/dev)."""
    lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    return {line.split(":")[0].strip() for line in lines}
