"""The compiler: bcc, and what it needs beside itself.

bcc asks for the running kernel's headers, but programs on packets need only the stable user-space ones, which every
machine with a C library's headers has. So a small tree is made in their shape, and no node needs headers that match
its kernel. Real headers are never used: nothing here reads a kernel-internal struct, and they cost a package per
kernel, an install per upgrade and a slower parse.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from jetplane.errors import RequirementError

OLDEST_BCC = (0, 26)
"""Debian 12's. Older ones lack a flags argument for pinned tables, and were never tried."""

DISTRIBUTION_PACKAGES = Path("/usr/lib/python3/dist-packages")
INCLUDE = Path("/usr/include")

# What bcc's own headers (src/cc/export/helpers.h) and uapi headers expect of the kernel's internal ones.
_KCONFIG = """\
#ifndef JETPLANE_KCONFIG_H
#define JETPLANE_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#include <linux/types.h>
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef __SIZE_TYPE__ size_t;
typedef __UINTPTR_TYPE__ uintptr_t;
#if !defined(__STDC_VERSION__) || __STDC_VERSION__ < 202311L
typedef _Bool bool;
#define true 1
#define false 0
#endif
#ifndef NULL
#define NULL ((void *)0)
#endif
#endif
"""

_VERSION = re.compile(r"""__version__\s*=\s*["'](?P<text>v?(?P<major>\d+)\.(?P<minor>\d+)[^"']*)["']""")


def bcc_version(path: Iterable[str] | None = None) -> str:
    """Return the version of bcc without importing it: its library must not enter this process.

    `path` stands for sys.path in tests. Raises RequirementError when bcc is missing, is another project's package
    of that name, or is too old.
    """
    directory = _bcc_directory(path)
    if directory is None:
        raise _missing()
    if not (directory / "libbcc.py").is_file():
        raise RequirementError(
            f"{directory}: this Python package named bcc is not the BPF Compiler Collection but an unrelated one",
            hint="remove it (pip uninstall bcc) and install the distribution's python3-bpfcc",
        )
    try:
        found = _VERSION.search((directory / "version.py").read_text(encoding="utf-8"))
    except OSError:
        found = None
    if found is None:
        raise RequirementError(f"{directory}: bcc does not say its version", hint="reinstall python3-bpfcc")
    if (int(found["major"]), int(found["minor"])) < OLDEST_BCC:
        oldest = ".".join(map(str, OLDEST_BCC))
        raise RequirementError(
            f"{directory}: bcc {found['text']} is too old: {oldest} is the oldest that works",
            hint="Debian 12, Ubuntu 24.04 and later have one that does, in python3-bpfcc",
        )
    return found["text"]


def _bcc_directory(path: Iterable[str] | None) -> Path | None:
    if path is not None:
        return next((Path(entry, "bcc") for entry in path if Path(entry, "bcc").is_dir()), None)
    spec = importlib.util.find_spec("bcc")
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin or "bcc")


def _missing() -> RequirementError:
    if not (DISTRIBUTION_PACKAGES / "bcc").is_dir():
        return RequirementError(
            "the BPF compiler is missing: no Python package bcc",
            hint="install the distribution's python3-bpfcc",
        )
    if sys.prefix != sys.base_prefix:
        return RequirementError(
            f"python3-bpfcc is installed, but the virtual environment {sys.prefix} does not see it",
            hint="make it with: /usr/bin/python3 -m venv --system-site-packages",
        )
    return RequirementError(
        f"python3-bpfcc is installed, but belongs to /usr/bin/python3, and this is {sys.executable}",
        hint="run jetplane with /usr/bin/python3, or with a virtual environment made from it",
    )


def make_headers(directory: Path, *, include: Path = INCLUDE) -> Path:
    """Make the tree that BCC_KERNEL_SOURCE names at `directory`, anew, and return it.

    `include` stands for the machine's own headers in tests. Raises RequirementError when they are missing.
    """
    asm = find_headers(include)
    shutil.rmtree(directory, ignore_errors=True)
    own, uapi = directory / "include", directory / "include" / "uapi"
    (own / "linux").mkdir(parents=True)
    (own / "asm").mkdir()
    (uapi / "linux").mkdir(parents=True)
    (own / "linux" / "kconfig.h").write_text(_KCONFIG, encoding="utf-8")
    # Empty ones suffice; and bcc brings its own bpf.h, newer than most machines'.
    for empty in ("linux/log2.h", "asm/page.h", "uapi/linux/bpf.h"):
        (own / empty).touch()
    for header in (include / "linux").iterdir():
        if header.name != "bpf.h":
            (uapi / "linux" / header.name).symlink_to(header)
    (uapi / "asm").symlink_to(asm)
    (uapi / "asm-generic").symlink_to(include / "asm-generic")
    return directory


def find_headers(include: Path = INCLUDE) -> Path:
    """Return the machine's directory of <asm/…>. Raises RequirementError when its headers are missing.

    Debian and Ubuntu keep it in a directory of the architecture; others beside <linux/…>.
    """
    triplet: str = sysconfig.get_config_var("MULTIARCH") or getattr(sys.implementation, "_multiarch", "")
    candidates = [include / triplet / "asm"] if triplet else []
    candidates.append(include / "asm")
    asm: Path | None = next((path for path in candidates if (path / "types.h").is_file()), None)
    if asm is None or not (include / "linux" / "if_ether.h").is_file():
        raise RequirementError(
            f"the kernel's user-space headers are missing under {include}",
            hint="install linux-libc-dev (on other distributions kernel-headers or linux-api-headers)",
        )
    return asm
