"""The loader: a short-lived process, the only one that holds the compiler. `load` starts it.

Standard input carries what to do, standard output what came of it, both one JSON object. What bcc, clang and the
verifier print goes to one log file for each source.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from jetplane.dataplane import bpf, child
from jetplane.dataplane.layout import ctype
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


def main() -> int:
    """Read the task, do it, report it."""
    return child.serve(_work)


def _work(task: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    maps = _load(task)
    return {
        "maps": maps,
        "seconds": round(time.monotonic() - started, 3),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _load(task: dict[str, Any]) -> dict[str, Any]:
    os.environ["BCC_KERNEL_SOURCE"] = task["headers"]
    compiler = _compiler()
    maps: dict[str, Any] = {}
    modules = []  # a module owns its programs' descriptors
    for source in task["sources"]:
        log = Path(task["log_directory"], Path(source["file"]).stem + ".log")
        _redirect(log)
        module = _compile(compiler, source["file"], task["flags"], log)
        modules.append(module)
        for name, kind in source["programs"].items():
            fd = _load_program(module, name, kind, Path(source["file"]).name, log)
            bpf.obj_pin(fd, f"{task['programs']}/{name}")
        for name in task["map_names"]:
            if name not in maps and (found := _describe(module, name, task["maps"])) is not None:
                maps[name] = found
    for name in task["map_names"]:
        if name not in maps:
            raise CompileError(f"map {name} is declared, but no program file has it")
    return maps


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


def _compile(compiler: Any, file: str, flags: list[str], log: Path) -> Any:
    """Compile one file; its pinned maps are opened, or made and pinned, on the way.

    Only `text` and `cflags` are passed: they are the same in every release of bcc from 0.26 to 0.37.
    """
    try:
        return compiler.BPF(text=Path(file).read_bytes(), cflags=flags)
    except Exception:  # bcc raises nothing more precise
        raise _why_not_compiled(Path(file).name, log) from None


def _load_program(module: Any, name: str, kind: int, file: str, log: Path) -> int:
    if not module_library().bpf_function_start(module.module, name.encode()):
        raise CompileError(f"{file}: there is no function {name} in it")
    try:
        return int(module.load_func(name.encode(), kind).fd)
    except Exception:  # bcc raises nothing more precise
        raise _why_not_loaded(f"{file}: {name}", ctypes.get_errno(), log) from None


def _why_not_loaded(what: str, number: int, log: Path) -> JetplaneError:
    """Find the verifier's last word; it stands before its statistics."""
    lines = _lines(log)
    end = next((i for i, line in enumerate(lines) if line.startswith("processed ")), 0)
    if end:
        return CompileError(f"{what}: the kernel's verifier refused it: {lines[end - 1]} (all of it: {log})")
    if number == errno.EPERM:
        return KernelError(f"{what}: the kernel does not let this process load programs", errno=number, hint=_RIGHTS)
    if number == errno.E2BIG:
        return CompileError(f"{what}: has more paths than the kernel's verifier follows")
    return CompileError(f"{what}: the kernel did not take it: {os.strerror(number)} (all of it: {log})")


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


def _describe(module: Any, name: str, directory: str) -> dict[str, Any] | None:
    """Say a map's layout, and make sure that the pinned map is the one the programs mean.

    bcc opens a pinned map without comparing it with the declaration. The calls into its library are those that
    bcc's own table class makes, unchanged from 0.26 to 0.37.
    """
    lib, handle, raw = module_library(), module.module, name.encode()
    fd = lib.bpf_table_fd(handle, raw)
    if fd < 0:
        return None
    key, value = (json.loads(part(handle, raw)) for part in (lib.bpf_table_key_desc, lib.bpf_table_leaf_desc))
    number = lib.bpf_table_id(handle, raw)
    declared = (
        lib.bpf_table_type_id(handle, number),
        ctypes.sizeof(ctype(key)),
        ctypes.sizeof(ctype(value)),
        lib.bpf_table_max_entries_id(handle, number),
    )
    info = bpf.map_info(fd)
    if declared != (info.type, info.key_size, info.value_size, info.max_entries):
        raise CompileError(
            f"map {name}: declared as {declared}, but the kernel's is {info} (type, key, value, entries)",
            hint="run: jetplane down",
        )
    with bpf.opened(bpf.obj_get(f"{directory}/{name}")) as pinned:
        if bpf.map_info(pinned).id != info.id:
            raise CompileError(
                f"map {name}: the pinned one is not the one that was loaded",
                hint="run: jetplane down",
            )
    return {
        "key": key,
        "value": value,
        "key_size": info.key_size,
        "value_size": info.value_size,
        "max_entries": info.max_entries,
        "id": info.id,
    }


def module_library() -> Any:
    """libbcc as bcc has opened and typed it."""
    from bcc.libbcc import lib

    return lib


if __name__ == "__main__":
    sys.exit(main())
