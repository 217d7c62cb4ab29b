"""Has the programs compiled by a child process, so that the compiler's 100 MiB leave with it, loaded and pinned."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jetplane import abi, errors
from jetplane.dataplane import child, objects, toolchain
from jetplane.dataplane.install import install
from jetplane.dataplane.layout import Layout
from jetplane.dataplane.programs import PROGRAMS, Program

TIMEOUT = 300
"""Seconds; a compilation takes less than one, or ten under plain emulation."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of it."""

    maps: dict[str, Layout]
    seconds: float
    peak_bytes: int  # of the compiler's memory; 0 when it had nothing to do


def load(
    *,
    header: str,
    maps: Path,
    programs: Path,
    build: Path,
    sources: Path | None = None,
    wanted: Sequence[Program] | None = None,
    map_names: Iterable[str] | None = None,
) -> Loaded:
    """Compile each source file, unless that was done before, load every program and pin it at `programs`/NAME.

    By default these are all the programs there are, from the C files that jetplane comes with.
    `header` is the text of node.h, whose PIN_ROOT must be `maps`; maps that are pinned there are used, the others
    made. `programs` must not exist: it appears whole or not at all. `build` (outside of bpffs) takes the headers,
    node.h and the logs. Raises RequirementError, CompileError or KernelError.
    """
    began = time.monotonic()
    version = toolchain.bcc_version()
    source, wanted = (sources or abi.EBPF).resolve(), wanted or PROGRAMS
    build.mkdir(parents=True, exist_ok=True)
    fresh = programs.with_name(f"new-{programs.name}")  # no dot: bpffs refuses it
    _make(maps)
    _remove(fresh)
    _make(fresh)
    try:
        names = tuple(abi.maps() if map_names is None else map_names)
        files = {file: [p.name for p in wanted if p.source == file] for file in dict.fromkeys(p.source for p in wanted)}
        made, peak = _objects(header, build, source, files, names, version)
        layouts = install(made, wanted, maps=maps, programs=fresh, logs=build)
        fresh.rename(programs)
    except BaseException:
        _remove(fresh)
        raise
    return Loaded(layouts, round(time.monotonic() - began, 3), peak)


def _objects(
    header: str,
    build: Path,
    source: Path,
    files: Mapping[str, Sequence[str]],
    map_names: Sequence[str],
    bcc_version: str,
) -> tuple[dict[str, objects.Object], int]:
    """The object of each of `files`, file → its programs, and how many bytes of memory the compiler took."""
    names = {file: objects.name(header, source / file, files[file], map_names, bcc_version) for file in files}
    made = {file: found for file, name in names.items() if (found := objects.find(name))}
    peak = 0
    if missing := {file: programs for file, programs in files.items() if file not in made}:
        compiled, peak = _compile(header, build, source, missing, map_names)
        for file in missing:
            objects.keep(names[file], compiled[file])
        made |= compiled
    for name in map_names:
        if not any(name in found.tables for found in made.values()):
            raise errors.CompileError(f"map {name} is declared, but no program file has it")
    return made, peak


def _compile(
    header: str, build: Path, source: Path, files: Mapping[str, Sequence[str]], map_names: Sequence[str]
) -> tuple[dict[str, objects.Object], int]:
    headers = toolchain.make_headers(build / "headers")
    (build / "node.h").write_text(header, encoding="utf-8")
    report = child.ask(
        "jetplane.dataplane.compile_child",
        {
            "headers": str(headers),
            "flags": [f"-I{source}", f"-I{build.resolve()}", "-g0"],  # bcc's -g is for BTF, which nothing here reads
            "source_directory": str(source),
            "programs": files,
            "map_names": map_names,
            "log_directory": str(build),
        },
        timeout=TIMEOUT,
    )
    return {file: objects.Object.of(tree) for file, tree in report["objects"].items()}, report["peak_bytes"]


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise errors.KernelError(
            f"making {directory}: {error.strerror}",
            errno=error.errno or 0,
            hint="is a bpffs mounted there?",
        ) from None


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
