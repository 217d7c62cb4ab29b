"""What a node's kernel would hold, for nodes that run by the dozen: WireGuard's peers and the data plane's entries.

Every operation is a line of a log, written before the next one begins. A node that is killed finds its kernel as it
left it, half-done work included; the test reads along and checks that no address ever has two owners.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jetplane.model import InnerAddress, Observed, ObservedPeer, PublicKey, Rate
from jetplane.plan import Entry, EntryStep, MoveAddresses, PeerStep, RemoveEntry, RemovePeer, SetEntry, SetPeer
from jetplane.wireguard.interface import Device, Kind


class State:
    """What follows from a log. Raises AssertionError when a step could not have been right."""

    def __init__(self) -> None:
        self.peers: dict[str, set[str]] = {}
        self.owner: dict[str, str] = {}  # by WireGuard's allowed IPs
        self.entries: dict[int, list[Any]] = {}  # addresses, exit, rate
        self.index: dict[str, int] = {}

    def apply(self, what: str, *arguments: Any) -> None:
        """One operation."""
        getattr(self, f"_{what}")(*arguments)

    def _remove(self, key: str) -> None:
        for address in self.peers.pop(key, set()):
            del self.owner[address]

    def _set(self, key: str, addresses: list[str]) -> None:
        self._remove(key)
        self.peers[key] = set()
        self._move(key, addresses)

    def _move(self, key: str, addresses: list[str]) -> None:
        for address in addresses:
            if address in self.owner:  # WireGuard takes it from whoever has it
                self.peers[self.owner[address]].discard(address)
            self.owner[address] = key
            self.peers[key].add(address)

    def _end(self, index: int) -> None:
        for address in self.entries.pop(index)[0]:
            del self.index[address]

    def _give(self, index: int, entry: list[Any]) -> None:
        if index in self.entries:
            self._end(index)
        for address in entry[0]:
            assert address not in self.index, "the data plane gives an address that somebody has"
            assert address in self.owner, "the data plane knows an address that no peer of WireGuard has"
            self.index[address] = index
        self.entries[index] = entry


class Log:
    """A log and the state it leads to. Several may read while one writes."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._at, self._rest = 0, b""
        self.state = State()

    def read(self) -> Iterator[tuple[int, str, list[Any]]]:
        """Follow what is new, telling each operation: when it was done (monotonic, ns), what, and with what."""
        while data := os.pread(self._descriptor, 1 << 20, self._at):
            self._at += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                at, what, *arguments = json.loads(line)
                self.state.apply(what, *arguments)
                yield at, what, arguments

    def write(self, what: str, *arguments: Any) -> None:
        """Do an operation, in one write(2)."""
        self.state.apply(what, *arguments)
        line = json.dumps([time.monotonic_ns(), what, *arguments], separators=(",", ":")).encode() + b"\n"
        self._at += os.write(self._descriptor, line)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Tunnels:
    """WireGuard as a node sees it (wireguard.interface.WireGuard)."""

    kind: Kind = "veth"

    def __init__(self, log: Log) -> None:
        self._log = log

    def create(self, name: str) -> None: ...

    def configure(self, device: Device) -> None: ...

    def delete(self, name: str) -> None: ...

    def apply(self, name: str, steps: Sequence[PeerStep]) -> None:
        for step in steps:
            match step:
                case RemovePeer(key):
                    self._log.write("remove", key.hex())
                case SetPeer(peer):
                    self._log.write("set", peer.public_key.hex(), [a.hex() for a in peer.allowed_ips])
                case MoveAddresses(key, addresses):
                    self._log.write("move", key.hex(), [a.hex() for a in addresses])

    def observe(self, name: str) -> Observed:
        peers = (
            ObservedPeer(PublicKey.fromhex(key), tuple(sorted(map(InnerAddress.fromhex, addresses))))
            for key, addresses in self._log.state.peers.items()
        )
        return {peer.public_key: peer for peer in peers}


class Maps:
    """The data plane as a node uses it for peers (dataplane.node.DataPlane)."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def observe(self) -> Iterator[tuple[int, Entry]]:
        return ((index, _entry(entry)) for index, entry in sorted(self._log.state.entries.items()))

    def observe_some(self, addresses: Iterable[InnerAddress]) -> dict[int, Entry]:
        state = self._log.state
        found = {state.index[a.hex()] for a in addresses if a.hex() in state.index}
        return {index: _entry(state.entries[index]) for index in found}

    def apply(self, steps: Sequence[EntryStep], known: Mapping[int, Sequence[InnerAddress]] | None = None) -> None:
        for step in steps:
            match step:
                case RemoveEntry(index):
                    self._log.write("end", index)
                case SetEntry(index, entry):
                    rate = [entry.rate.up, entry.rate.down]
                    self._log.write("give", index, [[a.hex() for a in entry.addresses], list(entry.exit_index), rate])

    def sweep(self) -> None: ...

    def close(self) -> None: ...


def _entry(stored: list[Any]) -> Entry:
    addresses, exits, rate = stored
    return Entry(tuple(map(InnerAddress.fromhex, addresses)), 1, (exits[0], exits[1]), Rate(*rate))
