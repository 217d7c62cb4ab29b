"""Which functions of the kernel a loaded BPF program calls, by its instructions.

The kernel shows a call as the distance of the function from `__bpf_call_base` (bpf_patch_call_args and
bpf_insn_prepare_dump, kernel/bpf); /proc/kallsyms says what stands there.
"""

from __future__ import annotations

import struct
from functools import cached_property
from pathlib import Path

from jetplane.dataplane import bpf

_INSTRUCTION = struct.Struct("=BBhi")  # struct bpf_insn: code, registers, offset, immediate
_CALL = 0x85  # BPF_JMP | BPF_CALL
_HELPER = 0  # source register; others are calls to other parts of the program and to kfuncs


class Calls:
    """The kernel's symbols are read when they are first needed: there are a hundred thousand."""

    def of(self, fd: int) -> frozenset[str] | None:
        """Names of the helpers, as the kernel calls their functions; None when it does not tell."""
        distances = frozenset(_distances(bpf.instructions(fd)))
        if not distances:
            return frozenset() if bpf.instructions(fd) else None
        base = self._symbols.get("__bpf_call_base", 0)
        if not base or distances == {0}:
            return None
        return frozenset(self._names.get(base + distance, f"{distance:#x}") for distance in distances)

    @cached_property
    def _symbols(self) -> dict[str, int]:
        found = {}
        for line in Path("/proc/kallsyms").read_text(encoding="ascii").splitlines():
            address, _, name = line.split(maxsplit=3)[:3]
            if "bpf" in name:
                found[name] = int(address, 16)
        return found

    @cached_property
    def _names(self) -> dict[int, str]:
        return {address: name for name, address in self._symbols.items()}


def _distances(code: bytes) -> list[int]:
    return [
        immediate
        for code, registers, _, immediate in _INSTRUCTION.iter_unpack(code)
        if code == _CALL and registers >> 4 == _HELPER
    ]
