"""WireGuard in the kernel, over generic netlink."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from typing import Final

from pyroute2.netlink.generic import GenericNetlinkSocket

from jetplane.errors import BackendError, RequirementError
from jetplane.model import Observed
from jetplane.plan import PeerStep
from jetplane.wireguard import links, ports
from jetplane.wireguard.encode import encode_device, encode_removal_of_all, encode_steps
from jetplane.wireguard.genl import WireGuardSocket
from jetplane.wireguard.interface import Device, Kind
from jetplane.wireguard.keys import private_key, wipe
from jetplane.wireguard.observe import read_peers

LINK_KIND: Final = "wireguard"
_HINTS: Final = {
    errno.EPERM: "run as root, or with CAP_NET_ADMIN",
    errno.ENODEV: "the interface is gone; it is made again when the node is next brought in line",
    errno.EOPNOTSUPP: "the interface of that name is not WireGuard",
}


def require() -> None:
    """Raise RequirementError unless this kernel has WireGuard. Loads its module; makes no interface."""
    try:
        _open().close()
    except OSError as error:
        raise RequirementError(
            f"this kernel offers no WireGuard: {error.strerror}",
            hint='load its module (modprobe wireguard), or set wireguard.backend = "userspace"',
        ) from None


def _open() -> WireGuardSocket:
    """pyroute2's socket. Its own WireGuard writes one peer per message, some hundred times slower than encode does."""
    connection = GenericNetlinkSocket()
    return WireGuardSocket(connection, connection.fileno())


class KernelWireGuard:
    """The kernel's implementation. Holds nothing between calls."""

    kind: Kind = "kernel"

    def create(self, name: str) -> None:
        """Make the interface; one that is there already must be WireGuard."""
        if not self._exists(name):
            links.add_wireguard(name)

    def configure(self, device: Device) -> None:
        """Set private key, listen port and fwmark. Peers stay, and so do sessions when the key is the same."""
        link = links.find(device.name)
        # An interface that is down stores the port without trying it and fails when it goes up.
        if link is not None and not link.up:
            ports.check_free(device.name, device.listen_port)
        with private_key(device.private_key_file) as key:
            message = encode_device(device.name, key, device.listen_port, device.fwmark)
            try:
                self._set(device.name, "setting its key and port", (message,))
            except BackendError as error:
                if error.errno == errno.EADDRINUSE:
                    raise ports.refusal(device.name, device.listen_port, error.errno) from None
                raise
            finally:
                wipe(message)

    def delete(self, name: str) -> None:
        """Remove the interface, with its peers; already being gone is fine."""
        link = links.find(name)
        if link is not None and self._exists(name):
            # Left to the removal of the interface, every peer costs a whole RCU grace period: 10,000 cost minutes.
            self._set(name, "removing its peers", (encode_removal_of_all(name),))
            links.delete(link.index, name)

    def apply(self, name: str, steps: Sequence[PeerStep]) -> None:
        """Carry out the steps in order, hundreds of peers to a message."""
        self._set(name, "changing its peers", encode_steps(name, steps))

    def observe(self, name: str) -> Observed:
        """Return the peers as the kernel holds them, read by a child process."""
        return read_peers("kernel", name)

    def _exists(self, name: str) -> bool:
        link = links.find(name)
        if link is not None and link.kind != LINK_KIND:
            what = f"a {link.kind} interface" if link.kind else "an interface"
            raise BackendError(
                f"{name}: {what} of that name is there already, and it is not kernel WireGuard",
                errno=errno.EEXIST,
                hint="remove it, or give the tunnel another name",
            )
        return link is not None

    def _set(self, name: str, doing: str, messages: Iterable[bytearray]) -> None:
        try:
            with _open() as netlink:
                netlink.set(messages)
        except OSError as error:
            code = error.errno or errno.EIO
            raise BackendError(f"{name}: {doing}: {os.strerror(code)}", errno=code, hint=_HINTS.get(code, "")) from None
