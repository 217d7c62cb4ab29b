"""XDP programs of others that the guard has replaced, held so that `jetplane down` can put them back.

A pin keeps each of them alive whatever its owner does, and a file beside the bpffs remembers where it was. Only the
first one of an interface is held: whatever comes there later has itself replaced the guard.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from jetplane.dataplane import attach, bpf, layout, pins
from jetplane.dataplane.links import Links
from jetplane.errors import KernelError

PINS = "foreign"
"""The directory of the bpffs that holds them, each under the index of its interface."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """One program, and where it belongs."""

    interface: str
    ifindex: int
    mode: str  # "native" or "generic"
    prog_id: int
    name: str

    def __str__(self) -> str:
        return f"XDP program {self.name} (id {self.prog_id}) on {self.interface}"


class Replacements:
    """All of one node. `root` is its bpffs, which must be mounted before anything is held."""

    def __init__(self, root: Path, file: Path) -> None:
        self._pins, self._file = root / PINS, file

    def held(self) -> tuple[Replaced, ...]:
        """Every program that is to be put back; none of an earlier boot."""
        try:
            tree = json.loads(self._file.read_text(encoding="utf-8"))
            return tuple(Replaced(**one) for one in tree["programs"]) if tree["boot"] == layout.boot() else ()
        except (OSError, ValueError, KeyError, TypeError):
            return ()

    def hold(self, one: Replaced, fd: int) -> bool:
        """Keep a program from now on; False when another one of this interface is kept already."""
        others = {other.ifindex: other for other in self.held()}
        known = others.pop(one.ifindex, None)
        if known and known.prog_id != one.prog_id:
            return False
        self._pins.mkdir(mode=0o700, exist_ok=True)
        self._pin(one).unlink(missing_ok=True)  # of a controller that was killed before the guard was attached
        bpf.obj_pin(fd, self._pin(one))
        self._write((*others.values(), one))
        return True

    def release(self, one: Replaced) -> None:
        """Keep it no longer: it is back, or never went."""
        self._pin(one).unlink(missing_ok=True)
        self._write(tuple(other for other in self.held() if other.ifindex != one.ifindex))

    def put_back(self, links: Links, owned: pins.Owned, *, keep: Collection[int] = ()) -> list[str]:
        """Put every program back in the place of ours, except on the interfaces `keep`. Returns a line for each.

        What cannot be put back has a line that says why, and is held no longer.
        """
        done = []
        for one in self.held():
            if one.ifindex not in keep:
                done.append(self._put_back(links, one, owned))
                self.release(one)
        return done

    def _put_back(self, links: Links, one: Replaced, owned: pins.Owned) -> str:
        try:
            with bpf.opened(pins.open_program(self._pin(one), one.prog_id)) as fd:
                theirs = attach.put_back(links, one.ifindex, fd, one.mode, owned)
        except KernelError as error:
            return f"not put back: {one}: {error}"
        return f"left alone: XDP program {theirs} of {one.interface}, put there since" if theirs else f"put back {one}"

    def _pin(self, one: Replaced) -> Path:
        return self._pins / str(one.ifindex)

    def _write(self, held: Collection[Replaced]) -> None:
        if not held:
            self._file.unlink(missing_ok=True)
            return
        fresh = self._file.with_name(self._file.name + ".new")
        tree = {"boot": layout.boot(), "programs": [asdict(one) for one in held]}
        fresh.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
        fresh.replace(self._file)
