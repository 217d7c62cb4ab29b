"""What is pinned, and whether it is whole.

`maps-HASH` holds the maps of one layout, `programs-HASH` the programs of one build. A directory of programs gets
its name when it is complete; one that was left half made has another name, or lacks a pin, and is made anew.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from jetplane import abi
from jetplane.dataplane import bpf
from jetplane.dataplane.programs import PROGRAMS
from jetplane.errors import KernelError

MAPS, PROGRAM_SETS = "maps-", "programs-"


def are_whole(maps: Path, programs: Path, names: Iterable[str]) -> bool:
    """Whether every map and program is pinned, and the programs use these very maps."""
    try:
        ids = {_map_id(maps / name) for name in names}
        return all(_info(programs / program.name).map_ids <= ids for program in PROGRAMS)
    except KernelError:
        return False


class Owned:
    """Our programs by the kernel's id. A context manager, which closes the descriptors it gave out.

    Ours is what is pinned under `root`, and what is unmistakably made of our sources though its pin is lost (someone
    unmounted the bpffs, or its mount namespace ended). The latter needs CAP_SYS_ADMIN to be found.
    """

    def __init__(self, root: Path) -> None:
        self._stack = ExitStack()
        self._found: dict[int, int | None] = {}
        for directory in _directories(root, PROGRAM_SETS):
            for path in _entries(directory):
                fd = self._stack.enter_context(bpf.opened(bpf.obj_get(path)))
                self._found[bpf.prog_info(fd).id] = fd
        self._pinned = frozenset(self._found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, prog_id: int) -> int | None:
        """The descriptor of a program of ours, open until this object is closed; None when it is another's."""
        if prog_id not in self._found:
            self._found[prog_id] = self._recognised(prog_id)
        return self._found[prog_id]

    def pinned(self, prog_id: int) -> int | None:
        """The same for a program that is pinned under `root`, and so was put where it is by this very node."""
        return self._found.get(prog_id) if prog_id in self._pinned else None

    def __contains__(self, prog_id: int) -> bool:
        return self.get(prog_id) is not None

    def _recognised(self, prog_id: int) -> int | None:
        try:
            fd = self._stack.enter_context(bpf.opened(bpf.prog_by_id(prog_id)))
            info = bpf.prog_info(fd)
            names = set()
            for number in info.map_ids:
                with bpf.opened(bpf.map_by_id(number)) as held:
                    names.add(bpf.map_info(held).name)
        except KernelError:
            return None
        ours = {name[:15] for name in abi.maps()}
        named = any(info.name == program.name[:15] and info.type == program.type for program in PROGRAMS)
        return fd if named and names and names <= ours else None


def open_map(path: Path, number: int) -> int:
    """Open a pinned map, or by its id the one whose pin is out of sight, in another mount namespace.

    The latter needs CAP_SYS_ADMIN. Raises KernelError when neither is there.
    """
    try:
        return bpf.obj_get(path)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
    fd = bpf.map_by_id(number)
    if bpf.map_info(fd).name == path.name[:15]:
        return fd
    os.close(fd)
    raise KernelError(f"map {path.name} is gone", errno=errno.ENOENT, hint="start the data plane: jetplane run")


def open_program(path: Path, number: int) -> int:
    """The same of a program. Raises KernelError when neither is there."""
    try:
        return bpf.obj_get(path)
    except KernelError:
        return bpf.prog_by_id(number)


def adopt(maps: Path, recorded: Mapping[str, int]) -> None:
    """Pin maps that lost their pin but live on in attached programs, so that no binding is lost.

    `recorded` says the id that each map had; the kernel does not give an id to another map before two thousand million
    others have come and gone. Maps that are no more are left for the loader to make.
    """
    for name, number in recorded.items():
        if not (maps / name).exists():
            with suppress(KernelError), bpf.opened(open_map(maps / name, number)) as fd:
                maps.mkdir(mode=0o700, exist_ok=True)
                bpf.obj_pin(fd, maps / name)


def remove(directory: Path) -> None:
    """Unpin everything in a directory and remove it. What is still attached or used stays alive."""
    shutil.rmtree(directory, ignore_errors=True)


def remove_others(root: Path, *keep: Path) -> None:
    """Remove every directory of ours under `root`, whole or half made, but these."""
    for directory in _directories(root, MAPS, PROGRAM_SETS, f"new-{PROGRAM_SETS}"):
        if directory not in keep:
            remove(directory)


def _directories(root: Path, *prefixes: str) -> list[Path]:
    return [path for path in _entries(root) if path.name.startswith(prefixes)]


def _entries(directory: Path) -> list[Path]:
    try:
        return [Path(entry) for entry in os.scandir(directory)]
    except FileNotFoundError:
        return []


def _info(path: Path) -> bpf.ProgInfo:
    with bpf.opened(bpf.obj_get(path)) as fd:
        return bpf.prog_info(fd)


def _map_id(path: Path) -> int:
    with bpf.opened(bpf.obj_get(path)) as fd:
        return bpf.map_info(fd).id
