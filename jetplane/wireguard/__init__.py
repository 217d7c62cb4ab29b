"""WireGuard behind one interface: in the kernel, or in user space over its UAPI socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jetplane.wireguard.interface import WireGuard


def choose(backend: Literal["auto", "kernel", "userspace"]) -> WireGuard:
    """Return the implementation to use here; `auto` takes the kernel's where there is one.

    Asking the kernel makes it load its module; no interface is made. Raises RequirementError when what is asked for,
    or any implementation at all, is missing.
    """
    # Imported here: the child that reads dumps is a module of this package and must start fast.
    from jetplane.errors import RequirementError
    from jetplane.wireguard import kernel, process, userspace

    if backend != "userspace":
        try:
            kernel.require()
            return kernel.KernelWireGuard()
        except RequirementError:
            if backend == "kernel":
                raise
    try:
        process.require()
    except RequirementError as error:
        if backend == "userspace":
            raise
        raise RequirementError(
            f"no WireGuard: this kernel has none, and {error}",
            hint="load the kernel's module (modprobe wireguard), or install wireguard-go",
        ) from None
    return userspace.UserspaceWireGuard()
