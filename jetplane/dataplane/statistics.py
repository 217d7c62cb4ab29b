"""The sums that figures of class D are made of, and the numbers of the epochs they belong to.

The data path adds to the sum of an epoch only what is left of a peer's clip in that epoch (ebpf/statistics.h). Nothing
here reads what one peer has used: that is written, for entries that begin, and looked at by the data path alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from jetplane import abi
from jetplane.dataplane import bpf, layout
from jetplane.dataplane.maps import Map, possible_cpus
from jetplane.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

EpochName = Literal["active", "volume"]

_EPOCH_OF: Mapping[str, EpochName] = {"active_peers": "active"}  # all others: volume

_MEMBARRIER = {"x86_64": 324, "i686": 375, "armv7l": 389, "ppc64le": 365, "ppc64": 365, "s390x": 356}
_GENERIC_MEMBARRIER = 283  # include/uapi/asm-generic/unistd.h
_MEMBARRIER_CMD_GLOBAL = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Handshakes:
    """What the looks at handshakes in an epoch have found so far."""

    slot: int = 0  # of the last look, counted in slots since 1970
    looks: int = 0
    peers: int = 0  # that had made one, over all looks


class Statistics:
    """Handles on the maps. `numbers` are those of epochs.Opening."""

    MAPS: ClassVar = ("peer_statistics", "aggregates", "epochs", "handshakes")

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._peers, self._sums, self._epochs, self._handshakes = (maps[name] for name in self.MAPS)

    @property
    def identity(self) -> tuple[int, ...]:
        """The kernel's ids of the maps: others are other maps, and what was in these is gone."""
        return tuple(m.info.id for m in (self._peers, self._sums, self._epochs, self._handshakes))

    def number(self, epoch: EpochName) -> int:
        """The kernel's number of the running epoch."""
        return int(getattr(self._epochs.lookup(0), epoch)) >> _SHIFT

    def turn(self, epoch: EpochName, number: int) -> None:
        """Begin an epoch: its sums are zero, and when this returns no packet adds to those of the last one.

        Raises KernelError.
        """
        self.clear(epoch, number)
        now = self._epochs.lookup(0)
        setattr(now, epoch, number << _SHIFT)
        self._epochs.update(0, now)
        _wait_for_running_programs()

    def sums(self, epoch: EpochName, number: int) -> dict[str, int]:
        """Quantity → sum over all peers, of an epoch that has ended."""
        totals = self._sums.sums()
        found = {name: totals[2 * place + number % 2] for name, place in _places(epoch)}
        return found | ({"handshakes": self.handshakes(number).peers} if epoch == "volume" else {})

    def clear(self, epoch: EpochName, number: int) -> None:
        """Forget the sums of an epoch."""
        nothing = bytes(8 * possible_cpus())
        for _, place in _places(epoch):
            bpf.update(self._sums.fd, bytes(self._sums.key(2 * place + number % 2)), nothing, what="map aggregates")
        if epoch == "volume":
            self._handshakes.update(number % 2, self._handshakes.value())

    def use_up(self, indices: Iterable[int]) -> None:
        """Let nothing of these entries count before the next epochs, and forget what they have used."""
        now = self._epochs.lookup(0)
        used = self._peers.value(active=now.active, up=now.volume | _USED_UP, down=now.volume | _USED_UP)
        room = self._peers.info.max_entries
        self._peers.update_many((index, used) for index in indices if index < room)

    def handshakes(self, number: int) -> Handshakes:
        """What has been found in an epoch of volume."""
        found = self._handshakes.lookup(number % 2)
        return Handshakes(found.slot, found.looks, found.peers)

    def add_handshakes(self, number: int, slot: int, peers: int) -> bool:
        """Enter a look at a slot into an epoch of volume; False, and nothing is added, when it was entered before."""
        found = self.handshakes(number)
        if slot <= found.slot:
            return False
        after = self._handshakes.value(slot=slot, looks=found.looks + 1, peers=found.peers + peers)
        self._handshakes.update(number % 2, after)
        return True


_SHIFT = abi.constants()["EPOCH_SHIFT"]
_USED_UP = abi.constants()["USED_UP"]


def _places(epoch: EpochName) -> list[tuple[str, int]]:
    """(quantity, its place in enum quantity) of an epoch."""
    names = (name.lower() for name in abi.quantities())
    return [(name, place) for place, name in enumerate(names) if _EPOCH_OF.get(name, "volume") == epoch]


def _wait_for_running_programs() -> None:
    """Return when every program that runs now has ended: membarrier(2) waits for a grace period of RCU."""
    number = _MEMBARRIER.get(platform.machine(), _GENERIC_MEMBARRIER)
    if _libc.syscall(ctypes.c_long(number), _MEMBARRIER_CMD_GLOBAL, 0, 0) < 0:
        code = ctypes.get_errno()
        hint = "figures of class D cannot be had on CPUs with nohz_full" if code == errno.EINVAL else ""
        raise KernelError(f"membarrier: {os.strerror(code)}", errno=code, hint=hint)


@contextmanager
def opened(run_directory: Path) -> Iterator[Statistics]:
    """The maps of the node that runs with this directory, for a process that opens nothing else. Raises KernelError."""
    record = layout.load(run_directory / "layout.json")
    if record is None:
        raise KernelError("no data plane is loaded", hint="start it: jetplane run")
    with ExitStack() as stack:
        directory = run_directory / "bpf" / record.layout
        maps = {name: Map(directory, name, record.maps[name]) for name in Statistics.MAPS}
        for handle in maps.values():
            stack.callback(handle.close)
        yield Statistics(maps)
