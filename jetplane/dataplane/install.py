"""Puts objects into the kernel: their maps are opened or made, their programs loaded, all of them pinned."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from jetplane.dataplane import bpf
from jetplane.dataplane.layout import Layout
from jetplane.dataplane.objects import Code, Object, Table
from jetplane.dataplane.programs import Program
from jetplane.errors import CompileError, KernelError

_INSTRUCTION = 8  # bytes: struct bpf_insn
_IMMEDIATE = slice(4, 8)  # where a map's descriptor stands in the one that loads it


def install(
    made: Mapping[str, Object], wanted: Iterable[Program], *, maps: Path, programs: Path, logs: Path
) -> dict[str, Layout]:
    """Pin every map at `maps`/NAME, unless it is there, and every program at `programs`/NAME; say the maps' layouts.

    `made` holds the object of each source file.

    What the verifier says of a program that it refuses is added to `logs`/SOURCE.log. Raises CompileError or
    KernelError.
    """
    tables = {name: table for found in made.values() for name, table in found.tables.items()}
    with ExitStack() as opened:
        fds = {name: opened.enter_context(bpf.opened(_open(maps / name, t))) for name, t in tables.items()}
        for program in wanted:
            log = logs / f"{Path(program.source).stem}.log"
            with bpf.opened(_load(program, _linked(made[program.source].programs[program.name], fds), log)) as fd:
                bpf.obj_pin(fd, programs / program.name)
        return {
            name: Layout(t.key, t.value, t.key_size, t.value_size, t.max_entries, bpf.map_info(fds[name]).id)
            for name, t in tables.items()
        }


def _open(path: Path, table: Table) -> int:
    """Open the map that is pinned there, which must be as declared, or make it."""
    if not path.exists():
        fd = bpf.map_create(table.type, table.key_size, table.value_size, table.max_entries, table.flags, path.name)
        try:
            bpf.obj_pin(fd, path)
        except KernelError:
            os.close(fd)
            raise
        return fd
    fd = bpf.obj_get(path)
    info = bpf.map_info(fd)
    declared = (table.type, table.key_size, table.value_size, table.max_entries)
    if declared != (info.type, info.key_size, info.value_size, info.max_entries):
        os.close(fd)
        raise CompileError(
            f"map {path.name}: declared as {declared}, but the kernel's is {info} (type, key, value, entries)",
            hint="run: jetplane down",
        )
    return fd


def _linked(code: Code, fds: Mapping[str, int]) -> bytes:
    """The instructions, with the descriptors of their maps."""
    linked = bytearray.fromhex(code.instructions)
    for name, numbers in code.maps.items():
        for number in numbers:
            at = number * _INSTRUCTION
            linked[at + _IMMEDIATE.start : at + _IMMEDIATE.stop] = fds[name].to_bytes(4, sys.byteorder)
    return bytes(linked)


def _load(program: Program, code: bytes, log: Path) -> int:
    what = f"{program.source}: {program.name}"
    try:
        return bpf.prog_load(program.type, code, program.name)
    except KernelError as error:
        if error.errno == errno.EPERM:
            raise KernelError(
                f"{what}: the kernel does not let this process load programs", errno=error.errno, hint=error.hint
            ) from None
        said = bpf.verifier_log(program.type, code, program.name)
        with log.open("a", encoding="utf-8") as file:
            file.write(said)
        raise CompileError(f"{what}: {_why(error.errno, said.splitlines())} (all of it: {log})") from None


def _why(number: int, lines: list[str]) -> str:
    """The verifier's last word; it stands before its statistics."""
    if number == errno.E2BIG:
        return "has more paths than the kernel's verifier follows"
    end = next((i for i, line in enumerate(lines) if line.startswith("processed ")), 0)
    if end:
        return f"the kernel's verifier refused it: {lines[end - 1].strip()}"
    return f"the kernel did not take it: {os.strerror(number)}"
