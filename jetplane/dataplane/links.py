"""rtnetlink for BPF: XDP programs and tc filters of the interfaces in the current network namespace."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from jetplane.dataplane.programs import Hook
from jetplane.errors import KernelError
from jetplane.model import V4_MAPPED

PRIORITY = 1
"""Of our tc filters: the first in the chain, so that no other filter lets a packet pass them by."""

HANDLE = 0x6A65
"""Of our tc filters; with PRIORITY it names the one that is replaced in place."""

NAME = "jetplane/"
"""What the names of our tc filters begin with, as `tc filter show` prints them."""

# include/uapi/linux/if_link.h
_UPDATE_IF_NOEXIST, _SKB_MODE, _DRV_MODE, _REPLACE = 1, 2, 4, 16
_CLSACT_HANDLE = 0xFFFF0000
_PARENT = {Hook.INGRESS: 0xFFFFFFF2, Hook.EGRESS: 0xFFFFFFF3}  # include/uapi/linux/pkt_sched.h
_TCA_BPF_ID = 11  # include/uapi/linux/pkt_cls.h; pyroute2 does not know it


def interface_index(name: str) -> int:
    """The index of an interface of the current network namespace. Raises KernelError when it is not there."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise KernelError(f"{name}: no such interface", errno=error.errno or 0) from None


def packed(address: str) -> bytes:
    """The 16-byte form of an address; IPv4 as ::ffff:a.b.c.d."""
    parsed = ipaddress.ip_address(address)
    return V4_MAPPED + parsed.packed if parsed.version == 4 else parsed.packed


@dataclass(frozen=True, slots=True)
class Attached:
    """The XDP program of an interface."""

    mode: str  # "native" or "generic"
    prog_id: int


@dataclass(frozen=True, slots=True)
class Filter:
    """A tc filter; `prog_id` is 0 when it is no BPF program."""

    kind: str
    priority: int
    handle: int
    name: str
    prog_id: int

    @property
    def ours(self) -> bool:
        """Made by `replace_filter`."""
        return self.priority == PRIORITY and self.handle == HANDLE and self.name.startswith(NAME)


class Links:
    """A netlink socket in the network namespace that the thread was in when it was opened. A context manager."""

    def __init__(self) -> None:
        with _saying("opening a netlink socket"):
            self._netlink = IPRoute(ext_ack=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def addresses(self, ifindex: int) -> tuple[bytes, ...]:
        """The addresses assigned to an interface, in their 16-byte form."""
        with _saying("reading addresses"):
            texts = [
                message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                for message in self._netlink.get_addr(index=ifindex)
            ]
        return tuple(packed(text) for text in texts)

    def others(self, ifindices: Collection[int]) -> tuple[str, ...]:
        """The addresses of all other interfaces, each with its prefix length; none that is valid on one link alone."""
        with _saying("reading addresses"):
            found = {
                f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
                for message in self._netlink.get_addr()
                if message["index"] not in ifindices
            }
        return tuple(sorted(text for text in found if _is_global(text)))

    def xdp(self, ifindex: int) -> Attached | None:
        """The XDP program of an interface; None when there is none, or no such interface."""
        try:
            with _saying("reading an interface"):
                link = self._netlink.get_links(ifindex)[0]
        except KernelError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return _attached(link)

    def everywhere(self) -> tuple[dict[int, Attached], frozenset[int]]:
        """What this network namespace has: index → XDP program, and the interfaces with a clsact qdisc."""
        with _saying("listing interfaces"):
            links, qdiscs = self._netlink.get_links(), self._netlink.get_qdiscs()
        programs = {link["index"]: found for link in links if (found := _attached(link))}
        return programs, frozenset(q["index"] for q in qdiscs if q.get_attr("TCA_KIND") == "clsact")

    def set_xdp(self, ifindex: int, fd: int, mode: str, *, replacing: int | None = None) -> None:
        """Attach the program `fd` (-1: none) in `mode`, "native" or "generic".

        It takes the place of the program `replacing` (a descriptor) in one step, or of none; the kernel refuses with
        EBUSY or EEXIST when another one is there.
        """
        flags = (_SKB_MODE if mode == "generic" else _DRV_MODE) | (
            _UPDATE_IF_NOEXIST if replacing is None else _REPLACE
        )
        attributes = [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", flags)]
        if replacing is not None:
            attributes.append(("IFLA_XDP_EXPECTED_FD", replacing))
        with _saying(f"attaching an XDP program in {mode} mode"):
            self._netlink.link("set", index=ifindex, xdp={"attrs": attributes})

    def qdisc_of_filters(self, ifindex: int) -> str | None:
        """What holds the interface's tc filters: "clsact", or "ingress", which has no egress; None for nothing yet."""
        with _saying("reading qdiscs"):
            for message in self._netlink.get_qdiscs(ifindex):
                if message["index"] == ifindex and message["handle"] == _CLSACT_HANDLE:
                    return str(message.get_attr("TCA_KIND"))
        return None

    def add_clsact(self, ifindex: int) -> bool:
        """Give the interface the queueing discipline that holds tc filters; False when there is one in its place."""
        if self.qdisc_of_filters(ifindex):
            return False
        with _saying("adding a clsact qdisc"):
            self._netlink.tc("add", "clsact", ifindex)
        return True

    def delete_clsact(self, ifindex: int) -> None:
        """Take it away, with every filter in it; fine when it is not there."""
        with _saying("deleting a clsact qdisc", errno.ENOENT, errno.EINVAL, errno.ENODEV):
            self._netlink.tc("del", "clsact", ifindex)

    def filters(self, ifindex: int, hook: Hook) -> tuple[Filter, ...]:
        """The filters of chain 0 at a tc hook, in the order in which they run; none without a clsact qdisc."""
        if self.qdisc_of_filters(ifindex) != "clsact":
            return ()
        with _saying("reading tc filters"):
            messages = list(self._netlink.get_filters(ifindex, 0, _PARENT[hook]))
        found = [_filter(message) for message in messages if not message.get_attr("TCA_CHAIN")]
        return tuple(entry for entry in found if entry.handle)  # 0: the head of a list, no filter

    def replace_filter(self, ifindex: int, hook: Hook, fd: int, name: str) -> None:
        """Attach the program `fd`; one that is already there under our handle is exchanged in one step."""
        with _saying(f"attaching a BPF program to {hook.value}"):
            self._netlink.tc(
                "replace-filter", "bpf", ifindex, fd=fd, name=NAME + name, direct_action=True,
                parent=_PARENT[hook], prio=PRIORITY, handle=HANDLE,
            )  # fmt: skip

    def delete_filter(self, ifindex: int, hook: Hook) -> None:
        """Take our filter away; fine when it is not there."""
        with _saying(f"detaching a BPF program from {hook.value}", errno.ENOENT, errno.EINVAL, errno.ENODEV):
            self._netlink.tc(
                "del-filter", "bpf", ifindex, parent=_PARENT[hook], prio=PRIORITY, handle=HANDLE
            )  # fmt: skip


def _is_global(text: str) -> bool:
    address = ipaddress.ip_interface(text).ip
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)


def _attached(link: Any) -> Attached | None:
    state = link.get_attr("IFLA_XDP")
    if state is None or not state.get_attr("IFLA_XDP_ATTACHED"):
        return None
    generic = state.get_attr("IFLA_XDP_ATTACHED") == "xdpgeneric"
    return Attached("generic" if generic else "native", state.get_attr("IFLA_XDP_PROG_ID") or 0)


def _filter(message: Any) -> Filter:
    name, prog_id = "", 0
    options = message.get_attr("TCA_OPTIONS")
    kind = str(message.get_attr("TCA_KIND"))
    if kind == "bpf" and options:
        name = options.get_attr("TCA_BPF_NAME") or ""
        for attribute, value in options["attrs"]:
            if attribute == "UNKNOWN" and value["header"]["type"] == _TCA_BPF_ID:
                (prog_id,) = struct.unpack_from("=I", value.data, value.offset + 4)
    return Filter(kind, message["info"] >> 16, message["handle"], name, prog_id)


@contextmanager
def _saying(doing: str, *fine: int) -> Iterator[None]:
    """Translate netlink's errors; those in `fine` are none."""
    try:
        yield
    except NetlinkError as error:
        number = error.code
        if number in fine:
            return
        hint = "run as root, or with CAP_NET_ADMIN" if number == errno.EPERM else ""
        raise KernelError(f"{doing}: {error.args[-1]}", errno=number, hint=hint) from None
    except OSError as error:
        raise KernelError(f"{doing}: {error.strerror}", errno=error.errno or 0) from None
