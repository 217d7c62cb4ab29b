"""Has the programs compiled, loaded and pinned by a child process, so that the compiler's 100 MiB leave with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jetplane import abi, errors
from jetplane.dataplane import child, toolchain
from jetplane.dataplane.layout import Layout
from jetplane.dataplane.programs import PROGRAMS, Program

TIMEOUT = 300
"""Seconds; a compilation takes less than one, or ten under plain emulation."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the loader reports."""

    maps: dict[str, Layout]
    seconds: float
    peak_bytes: int  # of the child's memory


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
    """Compile each source file once, load every program and pin it at `programs`/NAME.

    By default these are all the programs there are, from the C files that jetplane comes with.
    `header` is the text of node.h, whose PIN_ROOT must be `maps`; maps that are pinned there are used, the others
    made. `programs` must not exist: it appears whole or not at all. `build` (outside of bpffs) takes the headers,
    node.h and the logs. Raises RequirementError, CompileError or KernelError.
    """
    toolchain.bcc_version()
    source, wanted = (sources or abi.EBPF).resolve(), wanted or PROGRAMS
    headers = toolchain.make_headers(build / "headers")
    (build / "node.h").write_text(header, encoding="utf-8")
    fresh = programs.with_name(f"new-{programs.name}")  # no dot: bpffs refuses it
    _make(maps)
    _remove(fresh)
    _make(fresh)
    try:
        report = child.ask(
            "jetplane.dataplane.load_child",
            {
                "headers": str(headers),
                "flags": [f"-I{source}", f"-I{build.resolve()}"],
                "sources": [
                    {
                        "file": str(source / file),
                        "programs": {p.name: p.type for p in wanted if p.source == file},
                    }
                    for file in dict.fromkeys(p.source for p in wanted)
                ],
                "map_names": list(abi.maps() if map_names is None else map_names),
                "maps": str(maps),
                "programs": str(fresh),
                "log_directory": str(build),
            },
            timeout=TIMEOUT,
        )
        loaded = Loaded(
            {name: Layout(**entry) for name, entry in report["maps"].items()},
            report["seconds"],
            report["peak_bytes"],
        )
        fresh.rename(programs)
    except BaseException:
        _remove(fresh)
        raise
    return loaded


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
