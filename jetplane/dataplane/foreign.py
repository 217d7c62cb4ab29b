"""XDP programs of others where the guard belongs: who stands there, and whether it can give way.

One of them is special. libxdp's dispatcher (xdp-tools, lib/libxdp) is a program that calls up to ten others in turn,
its extensions, which bpf_links hold in it. The guard cannot be one of them. Extensions are loaded for the dispatcher
that is to call them, by its BTF; the guard is loaded without any. And what is called before it may let packets
pass that it never sees, while whoever adds a program has libxdp put another dispatcher in the place of this one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from jetplane.dataplane import bpf
from jetplane.dataplane.links import Attached
from jetplane.errors import KernelError

DISPATCHER = "xdp_dispatcher"
"""What libxdp calls its own, in every version of it."""

SETTING = "uplink.replace_foreign_xdp = true"


@dataclass(frozen=True, slots=True)
class Foreign:
    """An XDP program that is not jetplane's, and what is known of it without CAP_SYS_ADMIN: no more than its id."""

    interface: str
    prog_id: int
    name: str  # "" when it cannot be asked for
    link_id: int  # of the bpf_link that holds it there; 0: it was attached by netlink, as ip(8) does
    extensions: tuple[str, ...]  # names of the programs that it calls, if it is a dispatcher

    @property
    def is_dispatcher(self) -> bool:
        """Whether libxdp put it there to call others."""
        return self.name == DISPATCHER

    def __str__(self) -> str:
        within = f" with {', '.join(self.extensions) or 'nothing'} in it" if self.is_dispatcher else ""
        return f"{self.name or 'program'} (id {self.prog_id}){within}"


def look(interface: str, ifindex: int, attached: Attached) -> Foreign:
    """Ask the kernel who that is."""
    name, link_id, extensions = "", 0, []
    with suppress(KernelError), bpf.opened(bpf.prog_by_id(attached.prog_id)) as fd:
        name = bpf.prog_info(fd).name
    for link in _links():
        if link.prog_id == attached.prog_id and link.ifindex == ifindex:
            link_id = link.id
        elif link.extends == attached.prog_id:
            with suppress(KernelError), bpf.opened(bpf.prog_by_id(link.prog_id)) as fd:
                extensions.append(bpf.prog_info(fd).name)
    return Foreign(interface, attached.prog_id, name, link_id, tuple(extensions))


def _links() -> Iterator[bpf.LinkInfo]:
    """All of this machine, as long as they are; none without CAP_SYS_ADMIN."""
    with suppress(KernelError):
        for number in bpf.link_ids():
            with suppress(KernelError), bpf.opened(bpf.link_by_id(number)) as fd:
                yield bpf.link_info(fd)


def refuse(there: Foreign, *, replace: bool) -> None:
    """Raise KernelError, unless the operator has said that it is to be replaced and it can be."""
    where = there.interface
    if there.link_id:
        raise KernelError(
            f"{where}: a bpf_link (id {there.link_id}) holds an XDP program that is not jetplane's: {there}",
            errno=errno.EBUSY,
            hint=f"nothing can take its place: stop what made it, or `bpftool link detach id {there.link_id}`",
        )
    if replace:
        return
    way = f"{SETTING} has the guard take its place until `jetplane down`"
    if there.is_dispatcher:
        raise KernelError(
            f"{where}: libxdp's dispatcher is attached, and the guard cannot be one of its programs: {there}",
            errno=errno.EBUSY,
            hint=f"take its programs off with `xdp-loader unload {where} --all`; or {way}",
        )
    raise KernelError(
        f"{where}: an XDP program that is not jetplane's is attached: {there}",
        errno=errno.EBUSY,
        hint=f"look at it with `bpftool prog show id {there.prog_id}`; "
        f"detach it with `ip link set dev {where} xdp off`; or {way}",
    )
