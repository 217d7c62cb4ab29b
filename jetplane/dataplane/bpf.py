"""bpf(2) by ctypes: what the controller needs of it at run time, so that it never loads the compiler's library.

Every function raises KernelError naming the operation and the object, with the kernel's errno. All descriptors
that bpf(2) returns are close-on-exec (kernel/bpf/syscall.c). Source of numbers and layouts: include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetplane.errors import KernelError

_SYSCALL = {
    "x86_64": 321,
    "i686": 357,
    "armv7l": 386,
    "ppc64le": 361,
    "ppc64": 361,
    "s390x": 351,
}
_GENERIC_SYSCALL = 280  # aarch64, riscv64, loongarch64: include/uapi/asm-generic/unistd.h

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY, _PROG_LOAD, _OBJ_PIN, _OBJ_GET = range(8)
_PROG_NEXT_ID, _MAP_NEXT_ID = 11, 12
_PROG_FD_BY_ID, _MAP_FD_BY_ID, _INFO_BY_FD, _PROG_QUERY = 13, 14, 15, 16
_LINK_FD_BY_ID, _LINK_NEXT_ID = 30, 31
_TCX_INGRESS, _TCX_EGRESS = 46, 47
_LINK_TRACING, _LINK_XDP = 2, 6  # enum bpf_link_type
_TYPE_OF_EXTENSIONS = 0  # the attach type of their tracing links; those that only watch a program have another

ANY, NOEXIST, EXIST = 0, 1, 2
"""Flags of `update`: BPF_ANY, BPF_NOEXIST, BPF_EXIST."""

_u32, _u64 = ctypes.c_uint32, ctypes.c_uint64
_libc = ctypes.CDLL(None, use_errno=True)


class _Create(ctypes.Structure):
    _fields_ = (
        ("map_type", _u32), ("key_size", _u32), ("value_size", _u32), ("max_entries", _u32), ("map_flags", _u32),
        ("inner_map_fd", _u32), ("numa_node", _u32), ("map_name", ctypes.c_char * 16),
    )  # fmt: skip


class _Load(ctypes.Structure):
    _fields_ = (
        ("prog_type", _u32), ("insn_cnt", _u32), ("insns", _u64), ("license", _u64), ("log_level", _u32),
        ("log_size", _u32), ("log_buf", _u64), ("kern_version", _u32), ("prog_flags", _u32),
        ("prog_name", ctypes.c_char * 16),
    )  # fmt: skip


class _Element(ctypes.Structure):
    _fields_ = (("map_fd", _u32), ("key", _u64), ("value", _u64), ("flags", _u64))


class _Object(ctypes.Structure):
    _fields_ = (("pathname", _u64), ("bpf_fd", _u32), ("file_flags", _u32))


class _Id(ctypes.Structure):
    _fields_ = (("id", _u32), ("next_id", _u32), ("open_flags", _u32))


class _Info(ctypes.Structure):
    _fields_ = (("bpf_fd", _u32), ("info_len", _u32), ("info", _u64))


class _MapInfo(ctypes.Structure):
    _fields_ = (
        ("type", _u32), ("id", _u32), ("key_size", _u32), ("value_size", _u32),
        ("max_entries", _u32), ("map_flags", _u32), ("name", ctypes.c_char * 16),
    )  # fmt: skip


class _ProgInfo(ctypes.Structure):
    _fields_ = (
        ("type", _u32), ("id", _u32), ("tag", ctypes.c_uint8 * 8), ("jited_len", _u32), ("xlated_len", _u32),
        ("jited", _u64), ("xlated", _u64), ("load_time", _u64), ("uid", _u32), ("nr_map_ids", _u32),
        ("map_ids", _u64), ("name", ctypes.c_char * 16),
    )  # fmt: skip


class _LinkInfo(ctypes.Structure):
    _fields_ = (
        ("type", _u32), ("id", _u32), ("prog_id", _u32), ("padding", _u32),
        ("first", _u32), ("second", _u32), ("third", _u32), ("fourth", _u32),
    )  # fmt: skip


def call(command: int, attributes: ctypes.Structure) -> int:
    """Make one bpf(2) system call. Return what the kernel returned, or its errno negated."""
    number = _SYSCALL.get(platform.machine(), _GENERIC_SYSCALL)
    result = int(
        _libc.syscall(
            ctypes.c_long(number),
            command,
            ctypes.byref(attributes),
            ctypes.sizeof(attributes),
        )
    )
    return result if result >= 0 else -ctypes.get_errno()


def checked(result: int, doing: str, *, hint: str = "") -> int:
    """Return `result` of `call`, or raise KernelError saying what was being done."""
    if result >= 0:
        return result
    if -result == errno.EPERM and not hint:
        hint = "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    raise KernelError(f"{doing}: {os.strerror(-result)}", errno=-result, hint=hint)


def pointer(buffer: ctypes.Array[Any] | ctypes.Structure) -> int:
    """The address of a buffer, as the kernel wants it. The caller keeps the buffer alive."""
    return ctypes.addressof(buffer)


@contextmanager
def opened(fd: int) -> Iterator[int]:
    """Close the descriptor at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def map_create(kind: int, key_size: int, value_size: int, max_entries: int, flags: int, name: str) -> int:
    """Make a map of a type (enum bpf_map_type) and return its descriptor, which the caller closes; sizes in bytes."""
    attributes = _Create(kind, key_size, value_size, max_entries, flags, map_name=name[:15].encode())
    return checked(call(_MAP_CREATE, attributes), f"making map {name}")


def prog_load(kind: int, code: bytes, name: str) -> int:
    """Load a program of a type (enum bpf_prog_type), eight bytes an instruction; the caller closes its descriptor.

    Raises KernelError; `verifier_log` then says why.
    """
    return checked(_load(kind, code, name, log_size=0)[0], f"loading program {name}")


def verifier_log(kind: int, code: bytes, name: str) -> str:
    """What the verifier says of a program that it refuses; empty when that is more than the kernel hands out."""
    for bits in (16, 20, 24):
        result, said = _load(kind, code, name, log_size=(1 << bits) - 1)
        if result >= 0:
            os.close(result)
            return ""
        if result != -errno.ENOSPC:
            return said
    return ""


def _load(kind: int, code: bytes, name: str, *, log_size: int) -> tuple[int, str]:
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(log_size) if log_size else None
    attributes = _Load(
        kind, len(code) // 8, pointer(instructions), pointer(licence), prog_name=name[:15].encode(),
        log_level=int(log is not None), log_size=log_size, log_buf=pointer(log) if log else 0,
    )  # fmt: skip
    return call(_PROG_LOAD, attributes), log.value.decode(errors="replace") if log else ""


def obj_get(path: Path | str) -> int:
    """Open the map or program pinned at `path`; the caller closes the descriptor."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return checked(call(_OBJ_GET, _Object(pathname=pointer(name))), f"opening the pin {path}")


def obj_pin(fd: int, path: Path | str) -> None:
    """Pin a map or program at `path`, which must be in a mounted bpffs and free."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    result = call(_OBJ_PIN, _Object(pathname=pointer(name), bpf_fd=fd))
    hint = "a bpffs must be mounted there; run as root, or with CAP_BPF" if result == -errno.EPERM else ""
    checked(result, f"pinning {path}", hint=hint)


class _Query(ctypes.Structure):
    _fields_ = (
        ("target", _u32), ("attach_type", _u32), ("query_flags", _u32), ("attach_flags", _u32), ("prog_ids", _u64),
        ("count", _u32), ("padding", _u32), ("flags", _u64), ("link_ids", _u64), ("link_flags", _u64),
        ("revision", _u64),
    )  # fmt: skip


def tcx_programs(ifindex: int, *, egress: bool) -> list[int]:
    """Ids of the programs that run before every tc filter (tcx, kernel 6.6 and later; none on an older one)."""
    ids = (_u32 * 64)()
    query = _Query(
        target=ifindex, attach_type=_TCX_EGRESS if egress else _TCX_INGRESS, prog_ids=pointer(ids), count=len(ids)
    )
    result = call(_PROG_QUERY, query)
    if result == -errno.EINVAL:  # an attach type that this kernel does not know
        return []
    checked(result, "asking for tcx programs")
    return list(ids[: query.count])


def prog_by_id(number: int) -> int:
    """Open a loaded program by its id (needs CAP_SYS_ADMIN); the caller closes the descriptor."""
    return checked(call(_PROG_FD_BY_ID, _Id(id=number)), f"opening BPF program {number}")


def map_by_id(number: int) -> int:
    """Open a map by its id (needs CAP_SYS_ADMIN); the caller closes the descriptor."""
    return checked(call(_MAP_FD_BY_ID, _Id(id=number)), f"opening BPF map {number}")


def prog_ids() -> Iterator[int]:
    """The ids of all programs of this machine (needs CAP_SYS_ADMIN). Some may be gone when they are opened."""
    return _ids(_PROG_NEXT_ID, "listing BPF programs")


def map_ids() -> Iterator[int]:
    """The same of maps."""
    return _ids(_MAP_NEXT_ID, "listing BPF maps")


def link_ids() -> Iterator[int]:
    """The same of bpf_links, each of which keeps a program where it is attached."""
    return _ids(_LINK_NEXT_ID, "listing BPF links")


def link_by_id(number: int) -> int:
    """Open a bpf_link by its id (needs CAP_SYS_ADMIN); the caller closes the descriptor."""
    return checked(call(_LINK_FD_BY_ID, _Id(id=number)), f"opening BPF link {number}")


def _ids(command: int, doing: str) -> Iterator[int]:
    at = _Id()
    while (result := call(command, at)) != -errno.ENOENT:
        checked(result, doing)
        yield at.next_id
        at.id = at.next_id


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map; sizes in bytes, of one CPU's value."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str  # cut to 15 characters by the kernel


@dataclass(frozen=True, slots=True)
class ProgInfo:
    """What the kernel says of a program."""

    type: int
    id: int
    tag: str  # hash of its instructions, 16 hexadecimal digits
    name: str  # cut to 15 characters by the kernel
    map_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel says of a bpf_link."""

    id: int
    prog_id: int  # of the program that it keeps attached
    ifindex: int  # of an XDP program's interface; 0 for links of another type
    extends: int  # id of the program that this link's program is a part of (freplace); 0 for links of another type


def link_info(fd: int) -> LinkInfo:
    """Ask the kernel about a bpf_link."""
    info = _LinkInfo()
    checked(call(_INFO_BY_FD, _Info(fd, ctypes.sizeof(info), pointer(info))), "asking about a BPF link")
    extension = info.type == _LINK_TRACING and info.first == _TYPE_OF_EXTENSIONS
    return LinkInfo(
        info.id,
        info.prog_id,
        ifindex=info.first if info.type == _LINK_XDP else 0,
        extends=info.second if extension else 0,
    )


def map_info(fd: int) -> MapInfo:
    """Ask the kernel about a map."""
    info = _MapInfo()
    checked(
        call(_INFO_BY_FD, _Info(fd, ctypes.sizeof(info), pointer(info))),
        "asking about a map",
    )
    return MapInfo(
        info.type,
        info.id,
        info.key_size,
        info.value_size,
        info.max_entries,
        info.map_flags,
        info.name.decode(),
    )


def prog_info(fd: int) -> ProgInfo:
    """Ask the kernel about a program."""
    ids = (_u32 * 64)()  # the verifier admits at most 64 maps a program (MAX_USED_MAPS)
    info = _ProgInfo(nr_map_ids=len(ids), map_ids=pointer(ids))
    checked(
        call(_INFO_BY_FD, _Info(fd, ctypes.sizeof(info), pointer(info))),
        "asking about a program",
    )
    return ProgInfo(
        info.type,
        info.id,
        bytes(info.tag).hex(),
        info.name.decode(),
        frozenset(ids[: info.nr_map_ids]),
    )


def instructions(fd: int) -> bytes:
    """A loaded program as the kernel shows it, eight bytes an instruction; empty when it does not (bpf_dump_raw_ok)."""
    info = _ProgInfo()
    checked(call(_INFO_BY_FD, _Info(fd, ctypes.sizeof(info), pointer(info))), "asking about a program")
    code = ctypes.create_string_buffer(info.xlated_len or 1)
    info = _ProgInfo(xlated_len=info.xlated_len, xlated=pointer(code))
    checked(call(_INFO_BY_FD, _Info(fd, ctypes.sizeof(info), pointer(info))), "reading a program")
    return code.raw[: info.xlated_len] if info.xlated else b""


def lookup(fd: int, key: bytes, value_size: int, *, what: str = "a map") -> bytes | None:
    """Return the value at `key`, or None. `value_size` covers all CPUs where the map is per CPU."""
    k, value = (
        ctypes.create_string_buffer(key, len(key)),
        ctypes.create_string_buffer(value_size),
    )
    result = call(_MAP_LOOKUP, _Element(fd, pointer(k), pointer(value)))
    if result == -errno.ENOENT:
        return None
    checked(result, f"reading {what}")
    return value.raw


def update(fd: int, key: bytes, value: bytes, flags: int = ANY, *, what: str = "a map") -> None:
    """Write `value` at `key`."""
    k, v = (
        ctypes.create_string_buffer(key, len(key)),
        ctypes.create_string_buffer(value, len(value)),
    )
    checked(
        call(_MAP_UPDATE, _Element(fd, pointer(k), pointer(v), flags)),
        f"writing {what}",
    )


def delete(fd: int, key: bytes, *, what: str = "a map") -> bool:
    """Delete `key`; False when it was not there."""
    k = ctypes.create_string_buffer(key, len(key))
    result = call(_MAP_DELETE, _Element(fd, pointer(k)))
    if result == -errno.ENOENT:
        return False
    checked(result, f"deleting from {what}")
    return True


def get_next_key(fd: int, key: bytes | None, key_size: int, *, what: str = "a map") -> bytes | None:
    """Return the key after `key` (None: the first one), or None at the end."""
    k = ctypes.create_string_buffer(key, key_size) if key is not None else None
    following = ctypes.create_string_buffer(key_size)
    result = call(_MAP_NEXT_KEY, _Element(fd, pointer(k) if k else 0, pointer(following)))
    if result == -errno.ENOENT:
        return None
    checked(result, f"walking {what}")
    return following.raw
