"""The compiler: a short-lived process, the only one that holds it. `load` starts it.

Standard input carries what to do, standard output what came of it, both one JSON object. What bcc and clang print
goes to one log file for each source. bcc makes and pins the maps as it compiles.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jetplane.dataplane import child
from jetplane.dataplane.layout import ctype
from jetplane.dataplane.objects import Code, Object, Table
from jetplane.errors import CompileError, JetplaneError, KernelError, RequirementError

_RIGHTS = "run as root, or with CAP_SYS_ADMIN, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"

# How libbcc begins when it is not the source that is wrong (src/cc/libbpf.c, bpf_module.cc).
_KERNEL_SAYS = (
    "could not open bpf map",
    "failed to pin map",
    "failed to mkdir",
    "failed to statfs",
    "specified path",
)

_LOAD_64, _MAP_DESCRIPTOR = 0x18, 1  # linux/bpf.h: BPF_LD | BPF_IMM | BPF_DW, and BPF_PSEUDO_MAP_FD as its source


def main() -> int:
    """Read the task, do it, report it."""
    return child.serve(_work)


def _work(task: dict[str, Any]) -> dict[str, Any]:
    os.environ["BCC_KERNEL_SOURCE"] = task["headers"]
    compiler = _compiler()
    made = {file: asdict(_object(compiler, task, file)) for file in task["programs"]}
    return {"objects": made, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _object(compiler: Any, task: dict[str, Any], file: str) -> Object:
    log = Path(task["log_directory"], f"{Path(file).stem}.log")
    _redirect(log)
    module = _compile(compiler, Path(task["source_directory"], file), task["flags"], log)
    found = dict(_tables(module, task["map_names"]))
    names = {fd: name for name, (fd, _) in found.items()}
    return Object(
        {name: table for name, (_, table) in found.items()},
        {name: _code(module, name, names, file) for name in task["programs"][file]},
    )


def _compiler() -> Any:
    try:
        import bcc
    except (ImportError, OSError, AttributeError) as error:
        raise RequirementError(
            f"the BPF compiler cannot be loaded: {error}",
            hint="install or reinstall python3-bpfcc",
        ) from None
    if not hasattr(bcc, "BPF"):
        raise RequirementError(
            f"{bcc.__file__}: this Python package named bcc is not the BPF Compiler Collection",
            hint="remove it (pip uninstall bcc) and install the distribution's python3-bpfcc",
        )
    return bcc


def _redirect(log: Path) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _compile(compiler: Any, file: Path, flags: list[str], log: Path) -> Any:
    """Compile one file; its pinned maps are opened, or made and pinned, on the way.

    Only `text` and `cflags` are passed: they are the same in every release of bcc from 0.26 to 0.37.
    """
    try:
        return compiler.BPF(text=file.read_bytes(), cflags=flags)
    except Exception:  # bcc raises nothing more precise
        raise _why_not_compiled(file.name, log) from None


def _tables(module: Any, names: list[str]) -> Iterator[tuple[str, tuple[int, Table]]]:
    """Name, descriptor and declaration of each map of a file.

    The calls into bcc's library are those that bcc's own table class makes, unchanged from 0.26 to 0.37.
    """
    lib, handle = module_library(), module.module
    for name in names:
        raw = name.encode()
        if (fd := lib.bpf_table_fd(handle, raw)) < 0:
            continue
        key, value = (json.loads(part(handle, raw)) for part in (lib.bpf_table_key_desc, lib.bpf_table_leaf_desc))
        number = lib.bpf_table_id(handle, raw)
        yield name, (fd, Table(
            type=lib.bpf_table_type_id(handle, number),
            key_size=ctypes.sizeof(ctype(key)),
            value_size=ctypes.sizeof(ctype(value)),
            max_entries=lib.bpf_table_max_entries_id(handle, number),
            flags=lib.bpf_table_flags_id(handle, number),
            key=key,
            value=value,
        ))  # fmt: skip


def _code(module: Any, name: str, tables: dict[int, str], file: str) -> Code:
    """Take a program out of a file that was compiled. `tables` are the names of its maps by descriptor."""
    lib, handle, raw = module_library(), module.module, name.encode()
    start = lib.bpf_function_start(handle, raw)
    if not start:
        raise CompileError(f"{file}: there is no function {name} in it")
    code = bytearray(ctypes.string_at(start, lib.bpf_function_size(handle, raw)))
    maps: dict[str, list[int]] = {}
    for at in range(0, len(code), 8):
        if code[at] == _LOAD_64 and code[at + 1] >> 4 == _MAP_DESCRIPTOR:
            maps.setdefault(tables[int.from_bytes(code[at + 4 : at + 8], sys.byteorder)], []).append(at // 8)
            code[at + 4 : at + 8] = bytes(4)
    return Code(code.hex(), maps)


def _why_not_compiled(file: str, log: Path) -> JetplaneError:
    """Find the line that matters among what was printed."""
    text = log.read_text(encoding="utf-8", errors="replace").replace("/virtual/main.c", file)
    log.write_text(text, encoding="utf-8")
    lines = _lines(log)
    for line in lines:
        if line.startswith(_KERNEL_SAYS):
            return KernelError(f"{file}: {line}", hint=_RIGHTS if "permitted" in line else "")
    for line in lines:
        if ": error: " in line or ": fatal error: " in line:
            return CompileError(f"{line} (all of it: {log})")
    last = lines[-1] if lines else "the compiler says nothing"
    return CompileError(f"{file}: does not compile: {last} (all of it: {log})")


def _lines(log: Path) -> list[str]:
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def module_library() -> Any:
    """libbcc as bcc has opened and typed it."""
    from bcc.libbcc import lib

    return lib


if __name__ == "__main__":
    sys.exit(main())
