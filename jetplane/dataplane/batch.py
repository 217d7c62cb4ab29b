"""bpf(2)'s batch commands (kernel 5.6 and later; per-CPU arrays 5.13): many elements of a map in one system call."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator

from jetplane.dataplane.bpf import call, checked, pointer

_LOOKUP_BATCH, _UPDATE_BATCH, _DELETE_BATCH = 24, 26, 27
_CHUNK = 4096

_u32, _u64 = ctypes.c_uint32, ctypes.c_uint64


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("in_batch", _u64), ("out_batch", _u64), ("keys", _u64), ("values", _u64),
        ("count", _u32), ("map_fd", _u32), ("elem_flags", _u64), ("flags", _u64),
    )  # fmt: skip


def lookup_batch(
    fd: int, key_size: int, value_size: int, *, chunk: int = _CHUNK, what: str = "a map"
) -> Iterator[tuple[bytes, bytes]]:
    """Yield chunks of a map as (keys, values), each the elements one after the other.

    An element that is added or deleted meanwhile may or may not be seen. A hash map's bucket is never split: when
    one holds more than `chunk` elements the kernel says ENOSPC, and the chunk grows.
    """
    position, token = None, ctypes.create_string_buffer(max(key_size, 8))
    while True:
        keys, values = (
            ctypes.create_string_buffer(chunk * key_size),
            ctypes.create_string_buffer(chunk * value_size),
        )
        following = ctypes.create_string_buffer(len(token))
        attributes = _Attributes(
            in_batch=pointer(position) if position is not None else 0, out_batch=pointer(following),
            keys=pointer(keys), values=pointer(values), count=chunk, map_fd=fd,
        )  # fmt: skip
        result = call(_LOOKUP_BATCH, attributes)
        if result == -errno.ENOSPC:
            chunk *= 4
            continue
        if result != -errno.ENOENT:  # ENOENT: these are the last ones
            checked(result, f"reading {what}")
        if attributes.count:
            yield (
                keys.raw[: attributes.count * key_size],
                values.raw[: attributes.count * value_size],
            )
        if result == -errno.ENOENT:
            return
        position = following


def update_batch(
    fd: int,
    keys: bytes,
    values: bytes,
    key_size: int,
    flags: int = 0,
    *,
    what: str = "a map",
) -> None:
    """Write elements given one after the other. Those before a refused one stay written."""
    count = len(keys) // key_size
    if not count:
        return
    k, v = (
        ctypes.create_string_buffer(keys, len(keys)),
        ctypes.create_string_buffer(values, len(values)),
    )
    attributes = _Attributes(keys=pointer(k), values=pointer(v), count=count, map_fd=fd, elem_flags=flags)
    checked(call(_UPDATE_BATCH, attributes), f"writing {what}")


def delete_batch(fd: int, keys: bytes, key_size: int, *, what: str = "a map") -> int:
    """Delete keys given one after the other; return how many were there."""
    done = deleted = 0
    k = ctypes.create_string_buffer(keys, len(keys))
    count = len(keys) // key_size
    while done < count:
        attributes = _Attributes(keys=pointer(k) + done * key_size, count=count - done, map_fd=fd)
        result = call(_DELETE_BATCH, attributes)
        deleted += attributes.count
        if result != -errno.ENOENT:
            checked(result, f"deleting from {what}")
            break
        done += attributes.count + 1  # the kernel stops at a key that is not there
    return deleted
