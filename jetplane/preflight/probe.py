"""Loads the smallest program there is, to see whether BPF works here and whether it is compiled to machine code."""

from __future__ import annotations

import ctypes
import struct

from jetplane.dataplane import bpf
from jetplane.dataplane.programs import ProgramType

_INFO_BY_FD = 15  # linux/bpf.h, enum bpf_cmd
_INSTRUCTION = struct.Struct("=BBhi")  # struct bpf_insn: code, registers, offset, immediate
_MOVE, _EXIT = 0xB7, 0x95  # r0 = immediate; exit
_JITED_LEN = 16  # offset in struct bpf_prog_info, after type, id and the tag of 8 bytes

_u32, _u64 = ctypes.c_uint32, ctypes.c_uint64


class _Info(ctypes.Structure):
    _fields_ = (("bpf_fd", _u32), ("info_len", _u32), ("info", _u64))


def load(kind: ProgramType, *, returns: int, name: str = "probe") -> int:
    """Load a program that returns a number and return its descriptor, which the caller closes. Raises KernelError.

    Of the name, the kernel takes up to 15 letters, digits, `_` and `.`.
    """
    code = _INSTRUCTION.pack(_MOVE, 0, 0, returns) + _INSTRUCTION.pack(_EXIT, 0, 0, 0)
    return bpf.prog_load(kind, code, name)


def is_compiled() -> bool:
    """Whether a program is run as machine code, not by an interpreter. Raises KernelError when BPF cannot be used."""
    with bpf.opened(load(ProgramType.SCHED_CLS, returns=0)) as fd:
        info = ctypes.create_string_buffer(_JITED_LEN + 4)
        bpf.checked(bpf.call(_INFO_BY_FD, _Info(fd, len(info), bpf.pointer(info))), "asking about a BPF program")
        return any(info.raw[_JITED_LEN:])
