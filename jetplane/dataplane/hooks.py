"""All hooks of a node: which program belongs on which interface, and the order in which they come and go."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from jetplane.config import Config
from jetplane.dataplane import attach, bpf, pins
from jetplane.dataplane.attach import Attachment, Place
from jetplane.dataplane.links import Links, interface_index
from jetplane.dataplane.programs import Hook, attached
from jetplane.errors import KernelError


class Hooks:
    """The hooks of one configuration, in the current network namespace.

    `root` is the bpffs; `clsact_file` remembers the qdiscs that were made here, so that no others are removed.
    """

    def __init__(self, config: Config, root: Path, clsact_file: Path) -> None:
        self._config, self._root, self._clsact_file = config, root, clsact_file

    def refuse_foreign(self) -> None:
        """Raise KernelError when an interface is missing, or another's program is in the way."""
        with Links() as links, pins.Owned(self._root) as owned:
            for place in self._places():
                attach.refuse_foreign(links, place, owned)

    def attach(self, programs: Path) -> list[str]:
        """Attach or exchange the programs pinned in `programs`; return what was done.

        When one cannot be attached, what was at each place before is put back.
        """
        changed, places = [], self._places()
        with Links() as links, pins.Owned(self._root) as owned, ExitStack() as undo:
            for place in places:
                if place.hook is not Hook.XDP and links.add_clsact(place.ifindex):
                    self._remember_clsact(place.ifindex)
                undo.callback(_restore(links, place, owned))
                with bpf.opened(bpf.obj_get(programs / place.program.name)) as fd:
                    changed.append(attach.attach(links, place, fd, owned, self._config.uplink.xdp))
            undo.pop_all()
            left = attach.detach_elsewhere(links, places, owned)
            changed += [f"programs detached from interface {index}, which is no longer configured" for index in left]
            self._remove_clsact(links)
        return [change for change in changed if change]

    def observe(self) -> tuple[Attachment, ...]:
        """What is at each place; also when there is nothing, or no interface."""
        with Links() as links, pins.Owned(self._root) as owned:
            return tuple(attach.observe(links, place, owned) for place in self._places(missing=True))

    def detach(self) -> None:
        """Take every program of ours away, the leak guard last, then the empty qdiscs that were made here."""
        with Links() as links, pins.Owned(self._root) as owned:
            for place in reversed(self._places(missing=True)):
                attach.detach(links, place, owned)
            attach.detach_elsewhere(links, (), owned)
            self._remove_clsact(links)
        self._clsact_file.unlink(missing_ok=True)

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
