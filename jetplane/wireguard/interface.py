"""What the controller asks of WireGuard, whichever implementation answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from jetplane.model import Observed
from jetplane.plan import PeerStep

Kind = Literal["kernel", "userspace", "veth"]


@dataclass(frozen=True, slots=True)
class Device:
    """What is wanted of one tunnel interface; the names are those of wg(8)."""

    name: str
    listen_port: int
    private_key_file: Path  # base64, as `wg genkey` writes it; read when it is applied, never kept
    fwmark: int = 0


class WireGuard(Protocol):
    """One implementation of WireGuard. Every method raises BackendError, never a library's own exception."""

    kind: Kind

    def create(self, name: str) -> None:
        """Make the interface `name` in this network namespace; already being there is fine."""

    def configure(self, device: Device) -> None:
        """Set private key, listen port and fwmark. Peers stay, and what is already so is not touched.

        Raises ConfigurationError, naming the file, for a private key that cannot be used.
        """

    def delete(self, name: str) -> None:
        """Remove the interface; already being gone is fine."""

    def apply(self, name: str, steps: Sequence[PeerStep]) -> None:
        """Carry out the steps in order, in batches. After an error some of them may have been: observe again."""

    def observe(self, name: str) -> Observed:
        """Return the peers as WireGuard holds them, allowed IPs sorted.

        An allowed IP that is wider than one address, which only somebody else can have set, shows as `::`, so that
        the peer differs from any that is wanted.

        The dump behind this always carries private keys and endpoints, so a short-lived child process
        reads it and returns only the rest.
        """
