"""Looks at the kernel's settings, tables and sockets, as they are in this network namespace."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from jetplane.audit.proc import sockets_of
from jetplane.config import Config
from jetplane.network import sysctl
from jetplane.privacy.facts import Kernel

PATH_MTU = ("net/ipv4/route/mtu_expires", "net/ipv6/route/mtu_expires")

_DYNAMIC_DEBUG = (Path("/proc/dynamic_debug/control"), Path("/sys/kernel/debug/dynamic_debug/control"))
_EVERY_PACKET = "0003"  # ETH_P_ALL


def gather(config: Config) -> Kernel:
    """Look."""
    interfaces = (config.uplink.interface, *(tunnel.name for tunnel in config.tunnel))
    count = sysctl.read("net/netfilter/nf_conntrack_count")
    expiry = ((name.replace("/", "."), sysctl.read(name)) for name in PATH_MTU)
    return Kernel(
        log_martians={name: sysctl.read(f"net/ipv4/conf/{name}/log_martians") or "0" for name in ("all", *interfaces)},
        dynamic_debug=_dynamic_debug(),
        tracked=None if count is None else int(count),
        path_mtu_expires={name: int(value) for name, value in expiry if value is not None},
        swap=len(Path("/proc/swaps").read_text(encoding="utf-8").splitlines()) > 1,
        core_pattern=sysctl.read("kernel/core_pattern") or "",
        crash_kernel=_text(Path("/sys/kernel/kexec_crash_loaded")).strip() == "1",
        captures=tuple(_captures({tunnel.name for tunnel in config.tunnel})),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _dynamic_debug() -> int | None:
    control = next((path for path in _DYNAMIC_DEBUG if path.exists()), None)
    return None if control is None else prints(_text(control))


def prints(control: str) -> int:
    """Call sites of the wireguard module that print, by the text of dynamic_debug/control.

    A line is `file:line [module]function =flags "format"`; the flag p is the one that prints (dynamic-debug-howto).
    """
    sites = (line.split(" =", 1) for line in control.splitlines() if " [wireguard]" in line)
    return sum(len(parts) == 2 and "p" in parts[1].split(' "')[0] for parts in sites)


def _captures(tunnels: set[str]) -> Iterator[str]:
    """Packet sockets (packet(7)) that get every packet, or are bound to a tunnel; others serve DHCP and the like."""
    rows = [line.split() for line in _text(Path("/proc/thread-self/net/packet")).splitlines()[1:]]
    for _, _, _, protocol, index, *_, inode in (row[:9] for row in rows):
        name = _interface(int(index))
        if protocol == _EVERY_PACKET or name in tunnels:
            yield f"{_holder(int(inode))} on {name or 'every interface'}"


def _interface(index: int) -> str:
    with contextlib.suppress(OSError):
        return socket.if_indextoname(index) if index else ""
    return ""


def _holder(inode: int) -> str:
    for path in Path("/proc").glob("[0-9]*"):
        if inode in sockets_of(int(path.name)):
            return f"{_text(path / 'comm').strip()} (pid {path.name})"
    return "somebody"
