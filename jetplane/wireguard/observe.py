"""Reads a device through the child that may see its dump (dump)."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator, Mapping, ValuesView
from typing import Final, Literal

from jetplane.errors import BackendError
from jetplane.model import InnerAddress, Observed, ObservedPeer, PublicKey
from jetplane.wireguard.child import start
from jetplane.wireguard.snapshot import front, peers

DEADLINE_S: Final = 60.0


class ObservedPeers(Mapping[PublicKey, ObservedPeer]):
    """A device's peers as the plan compares them, allowed IPs sorted; made from the child's answer one by one.

    Passing through `values()` keeps no peer; looking one up makes all of them.
    """

    def __init__(self, answer: bytes) -> None:
        """Raises ValueError when it is no whole answer, OSError when it is a refusal."""
        front(answer)
        self._answer = answer
        self._count = sum(1 for _ in peers(answer))
        self._all: dict[PublicKey, ObservedPeer] | None = None

    def __getitem__(self, key: PublicKey) -> ObservedPeer:
        if self._all is None:
            self._all = {peer.public_key: peer for peer in self._made()}
        return self._all[key]

    def __iter__(self) -> Iterator[PublicKey]:
        return (peer.public_key for peer in self._made())

    def __len__(self) -> int:
        return self._count

    def values(self) -> ValuesView[ObservedPeer]:
        """All of them, one by one."""
        return _Values(self)

    def _made(self) -> Iterator[ObservedPeer]:
        for key, keepalive, has_preshared_key, addresses in peers(self._answer):
            allowed_ips = tuple(map(InnerAddress, sorted(addresses)))
            yield ObservedPeer(PublicKey(key), allowed_ips, keepalive, has_preshared_key)

    def __repr__(self) -> str:
        return "ObservedPeers(hidden)"


class _Values(ValuesView[ObservedPeer]):
    _mapping: ObservedPeers

    def __iter__(self) -> Iterator[ObservedPeer]:
        return self._mapping._made()


def read_peers(kind: Literal["kernel", "userspace"], name: str) -> Observed:
    """Return what the device holds, read by a child in the calling thread's network namespace.

    Raises BackendError with the errno of a refused dump.
    """
    doing = f"{name}: reading its peers"
    try:
        with start("jetplane.wireguard.dump", kind, name, stdout=subprocess.PIPE) as child:
            try:
                answer, _ = child.communicate(timeout=DEADLINE_S)
            except BaseException:
                child.kill()
                raise
        if child.returncode:
            raise BackendError(f"{doing}: the process that reads the dump ended with status {child.returncode}")
        return ObservedPeers(answer)
    except subprocess.TimeoutExpired:
        raise BackendError(f"{doing}: no answer within {DEADLINE_S:.0f} s", errno=errno.ETIMEDOUT) from None
    except OSError as error:
        code = error.errno or errno.EIO
        raise BackendError(f"{doing}: {os.strerror(code)}", errno=code) from None
    except ValueError:
        raise BackendError(f"{doing}: the process that reads the dump gave half an answer") from None
