"""WireGuard in user space: wireguard-go, driven through its UAPI socket. A fallback where the kernel has none."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn

from jetplane.errors import BackendError
from jetplane.model import Observed
from jetplane.plan import PeerStep
from jetplane.wireguard import links, ports, process, uapi, uapi_request
from jetplane.wireguard.interface import Device, Kind
from jetplane.wireguard.keys import private_key, wipe
from jetplane.wireguard.observe import read_peers

_HINTS: Final = {errno.EINVAL: "wireguard-go holds at most 65,536 peers"}


class UserspaceWireGuard:
    """Debian's wireguard-go. Holds only the process ids that it started, to reap them."""

    kind: Kind = "userspace"

    def __init__(self) -> None:
        self._children: dict[str, int] = {}

    def create(self, name: str) -> None:
        """Start wireguard-go for `name`, or take over the one that runs."""
        self._reap(name)
        owner = process.owner(name)
        if owner is not None:
            _require_ours(name, owner)
            return
        if (link := links.find(name)) is not None:
            what = f"a {link.kind} interface" if link.kind else "an interface"
            raise BackendError(
                f"{name}: {what} of that name is there already, and no wireguard-go answers for it",
                errno=errno.EEXIST,
                hint="remove it, or give the tunnel another name",
            )
        process.require()
        self._children[name] = process.start(name)

    def configure(self, device: Device) -> None:
        """Set private key, listen port and fwmark. Peers stay, and so do sessions when key and port are the same."""
        owner = self._owner(device.name)
        port: int | None = device.listen_port
        if ports.is_held_by(owner.pid, device.listen_port):
            port = None
        else:
            # Asked first: wireguard-go gives its present port up before it fails to get the new one.
            ports.check_free(device.name, device.listen_port)
        with private_key(device.private_key_file) as key:
            request = uapi_request.encode_device(key, port, device.fwmark)
            try:
                self._set(device.name, "setting its key and port", (request,))
            except BackendError as error:
                if error.errno == errno.EADDRINUSE:
                    raise ports.refusal(device.name, device.listen_port, error.errno) from None
                raise
            finally:
                wipe(request)

    def delete(self, name: str) -> None:
        """End wireguard-go, and the interface with it; already being gone is fine."""
        owner = process.owner(name)
        link = links.find(name)
        if owner is None:
            uapi.socket_path(name).unlink(missing_ok=True)  # a dead process leaves it behind
        elif owner.ours:
            process.stop(owner.pid)
            uapi.socket_path(name).unlink(missing_ok=True)
            link = None
        if link is not None:
            raise BackendError(f"{name}: no wireguard-go of this node answers for that interface; it stays")
        self._reap(name)

    def apply(self, name: str, steps: Sequence[PeerStep]) -> None:
        """Carry out the steps in order, hundreds of peers to a request."""
        self._set(name, "changing its peers", uapi_request.encode_steps(steps))

    def observe(self, name: str) -> Observed:
        """Return the peers as wireguard-go holds them, read by a child process."""
        self._owner(name)
        return read_peers("userspace", name)

    def _set(self, name: str, doing: str, requests: Iterable[bytes | bytearray]) -> None:
        try:
            with self._connect(name) as connection, connection.makefile("rb") as answers:
                for request in requests:
                    connection.sendall(request)
                    code, _ = uapi.decode(answers)
                    answers.readline()  # the empty line that ends the answer
                    if code:
                        raise OSError(code, os.strerror(code))
        except ValueError:
            raise BackendError(f"{name}: {doing}: wireguard-go hung up", errno=errno.ECONNRESET) from None
        except OSError as error:
            code = error.errno or errno.ETIMEDOUT
            raise BackendError(f"{name}: {doing}: {os.strerror(code)}", errno=code, hint=_HINTS.get(code, "")) from None

    def _connect(self, name: str) -> socket.socket:
        connection, owner = process.connect(name) or self._missing(name)
        try:
            _require_ours(name, owner)
        except BackendError:
            connection.close()
            raise
        return connection

    def _owner(self, name: str) -> process.Owner:
        owner = process.owner(name) or self._missing(name)
        _require_ours(name, owner)
        return owner

    def _missing(self, name: str) -> NoReturn:
        self._reap(name)
        raise BackendError(f"{name}: no wireguard-go answers for it", errno=errno.ENODEV)

    def _reap(self, name: str) -> None:
        if name in self._children and process.reap(self._children[name]) is not None:
            del self._children[name]


def _require_ours(name: str, owner: process.Owner) -> None:
    if not owner.ours:
        raise BackendError(
            f"{name}: {uapi.socket_path(name)} belongs to a process that this node did not start, or of another "
            "network namespace",
            errno=errno.EEXIST,
            hint="stop that process, or give the tunnel another name: the sockets of all namespaces share a directory",
        )
