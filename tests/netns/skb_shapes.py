"""Counts packets at an interface by how they lie in the kernel's memory (skb_shapes.bpf.c)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetplane.dataplane import toolchain
from jetplane.dataplane.links import Links, interface_index
from jetplane.dataplane.programs import Hook, ProgramType
from jetplane.lab import namespaces

_SOURCE = Path(__file__).with_suffix(".bpf.c")


@dataclass(frozen=True, slots=True)
class Shapes:
    """How many packets there were of each."""

    packets: int
    super_packets: int
    nonlinear: int


class Witness:
    """A program that counts at one hook; it goes with the interface."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._program = module.load_func(b"look", int(ProgramType.SCHED_CLS)).fd

    def attach(self, namespace: str, interface: str, hook: Hook) -> None:
        """Count what comes here: at egress before a super-packet is cut up, at ingress after GRO."""

        def work() -> None:
            with Links() as links:
                index = interface_index(interface)
                links.add_clsact(index)
                links.replace_filter(index, hook, self._program, "shapes")

        namespaces.inside(namespace, work)

    def take(self) -> Shapes:
        """What has passed since the last call."""
        table = self._module[b"shapes"]
        counts = [int(table.sum(number).value) for number in range(3)]
        table.clear()
        return Shapes(*counts)


@contextmanager
def witness() -> Iterator[Witness]:
    """Compile the program and load it."""
    with tempfile.TemporaryDirectory() as directory:
        module = _compile(Path(directory))
    try:
        yield Witness(module)
    finally:
        module.cleanup()


def _compile(directory: Path) -> Any:
    os.environ["BCC_KERNEL_SOURCE"] = str(toolchain.make_headers(directory / "headers"))
    from bcc import BPF

    return BPF(text=_SOURCE.read_bytes())
