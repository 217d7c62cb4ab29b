"""All hooks of a node: which program belongs on which interface, and the order in which they come and go."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from jetplane.config import Config
from jetplane.dataplane import attach, bpf, pins
from jetplane.dataplane.attach import Done, Place
from jetplane.dataplane.links import Links, interface_index
from jetplane.dataplane.programs import Attachment, Hook, attached
from jetplane.dataplane.replaced import Replaced, Replacements
from jetplane.errors import KernelError


class Hooks:
    """The hooks of one configuration, in the current network namespace.

    `root` is the bpffs; `clsact_file` remembers the qdiscs that were made here, so that no others are removed;
    `foreign_file`, the XDP programs that have given way.
    """

    def __init__(self, config: Config, root: Path, clsact_file: Path, foreign_file: Path) -> None:
        self._config, self._root, self._clsact_file = config, root, clsact_file
        self._replacements = Replacements(root, foreign_file)

    def refuse_foreign(self) -> None:
        """Raise KernelError when an interface is missing, or another's program is in the way and must stay."""
        with Links() as links, pins.Owned(self._root) as owned:
            for place in self._places():
                attach.refuse_foreign(links, place, owned, replace=self._config.uplink.replace_foreign_xdp)

    def attach(self, programs: Path) -> list[Done]:
        """Attach or exchange the programs pinned in `programs`; return what was done.

        When one cannot be attached, what was at each place before is put back.
        """
        changed: list[Done | None] = []
        places = self._places()
        with Links() as links, pins.Owned(self._root) as owned, ExitStack() as opened, ExitStack() as undo:
            for place in places:
                if place.hook is not Hook.XDP and links.add_clsact(place.ifindex):
                    self._remember_clsact(place.ifindex)
                there = self._foreign(links, place, owned)
                theirs = None
                if there:
                    theirs = opened.enter_context(bpf.opened(bpf.prog_by_id(there.prog_id)))
                    undo.callback(self._return(links, there, theirs, owned))
                    changed.append(self._hold(there, theirs))
                undo.callback(_restore(links, place, owned))
                with bpf.opened(bpf.obj_get(programs / place.program.name)) as fd:
                    changed.append(attach.attach(links, place, fd, owned, self._config.uplink.xdp, theirs=theirs))
            undo.pop_all()
            kept = {place.ifindex for place in places if place.hook is Hook.XDP}
            changed += map(Done, self._replacements.put_back(links, owned, keep=kept))
            left = attach.detach_elsewhere(links, places, owned)
            lost = [f"programs detached from interface {index}, which is no longer configured" for index in left]
            self._remove_clsact(links)
        return [change for change in (*changed, *map(Done, lost)) if change]

    def observe(self) -> tuple[Attachment, ...]:
        """What is at each place; also when there is nothing, or no interface."""
        with Links() as links, pins.Owned(self._root) as owned:
            return tuple(attach.observe(links, place, owned) for place in self._places(missing=True))

    def detach(self) -> list[str]:
        """Take every program of ours away, the leak guard last, then the empty qdiscs that were made here.

        XDP programs that had given way take the guard's place. Returns what was done about them, a line each.
        """
        with Links() as links, pins.Owned(self._root) as owned:
            put_back = self._replacements.put_back(links, owned)
            for place in reversed(self._places(missing=True)):
                attach.detach(links, place, owned)
            attach.detach_elsewhere(links, (), owned)
            self._remove_clsact(links)
        self._clsact_file.unlink(missing_ok=True)
        return put_back

    def _places(self, *, missing: bool = False) -> tuple[Place, ...]:
        """Where each program belongs, in the order of attaching. An interface that is not there raises KernelError,
        or with `missing` has index 0, at which nothing is ever found."""
        config = self._config
        names = {config.uplink.interface, *(tunnel.name for tunnel in config.tunnel)}
        index = {name: _index(name, missing) for name in names}
        return tuple(
            Place(program, name, index[name])
            for program in attached(config)
            for name in ([t.name for t in config.tunnel] if program.tunnel else [config.uplink.interface])
        )

    def _foreign(self, links: Links, place: Place, owned: pins.Owned) -> Replaced | None:
        """The XDP program of somebody else that is to give way at this place."""
        if place.hook is not Hook.XDP or not self._config.uplink.replace_foreign_xdp:
            return None
        there, attached = attach.refuse_foreign(links, place, owned, replace=True), links.xdp(place.ifindex)
        if there is None or attached is None:
            return None
        return Replaced(place.interface, place.ifindex, attached.mode, there.prog_id, there.name)

    def _hold(self, there: Replaced, fd: int) -> Done:
        back = "`jetplane down` puts it back"
        if not self._replacements.hold(there, fd):
            back = "`jetplane down` puts back what was there before it"
        return Done(f"{there} gives way to the guard; {back}", warning=True)

    def _return(self, links: Links, there: Replaced, fd: int, owned: pins.Owned) -> Callable[[], None]:
        """Remember to give a program its place back, should a later step fail."""

        def undo() -> None:
            attach.put_back(links, there.ifindex, fd, there.mode, owned)
            if there in self._replacements.held():
                self._replacements.release(there)

        return undo

    def _remove_clsact(self, links: Links) -> None:
        """Remove the qdiscs made here in which no filter is left."""
        for ifindex in self._remembered_clsact():
            if not links.filters(ifindex, Hook.INGRESS) and not links.filters(ifindex, Hook.EGRESS):
                links.delete_clsact(ifindex)

    def _remembered_clsact(self) -> list[int]:
        try:
            return [int(number) for number in json.loads(self._clsact_file.read_text(encoding="utf-8"))]
        except (OSError, ValueError):
            return []

    def _remember_clsact(self, ifindex: int) -> None:
        """So that `detach` removes the qdiscs that were made here, and no others."""
        known = self._remembered_clsact()
        self._clsact_file.write_text(json.dumps(sorted({*known, ifindex})), encoding="utf-8")


def _index(name: str, missing: bool) -> int:
    try:
        return interface_index(name)
    except KernelError:
        if missing:
            return 0
        raise


def _restore(links: Links, place: Place, owned: pins.Owned) -> Callable[[], None]:
    """Remember what is at a place, to put it back should a later step fail."""
    before = owned.get(attach.prog_id(links, place))

    def undo() -> None:
        if before is None:
            attach.detach(links, place, owned)
        else:
            attach.attach(links, place, before, owned)

    return undo
