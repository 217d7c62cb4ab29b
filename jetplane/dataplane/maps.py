"""Typed handles on pinned maps."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Self

from jetplane.dataplane import batch, bpf, pins
from jetplane.dataplane.layout import Layout
from jetplane.errors import KernelError

_PER_CPU = frozenset({5, 6, 10})  # percpu_hash, percpu_array, lru_percpu_hash: enum bpf_map_type


@cache
def possible_cpus() -> int:
    """How many CPUs the kernel makes room for in a per-CPU map."""
    text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii")
    return max(int(part) for span in text.strip().split(",") for part in span.split("-")) + 1


class Map:
    """One pinned map. Keys and values go in and out as what the compiler said they are.

    A key or value is given as a ctypes object, as bytes of the right length, or as an int where it is one; it comes
    back as a ctypes object. `key` and `value` are the ctypes types.
    """

    def __init__(self, directory: Path, name: str, layout: Layout) -> None:
        """Open the map pinned in `directory`. Raises KernelError when it is not there or is not of this layout."""
        self.name, self.key, self.value = name, layout.key_type, layout.value_type
        self.fd = pins.open_map(directory / name, layout.id)
        self._closing = weakref.finalize(self, os.close, self.fd)
        self.info = bpf.map_info(self.fd)
        expected = ctypes.sizeof(self.key), ctypes.sizeof(self.value)
        if (self.info.key_size, self.info.value_size) != expected:
            self.close()
            raise KernelError(
                f"map {name}: the kernel's key and value are {self.info.key_size} and {self.info.value_size} bytes, "
                f"the compiler's {expected[0]} and {expected[1]}",
                hint="run: jetplane down",
            )
        self.per_cpu = self.info.type in _PER_CPU
        self._value_bytes = (
            -(-self.info.value_size // 8) * 8 * possible_cpus() if self.per_cpu else self.info.value_size
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; the map stays."""
        self._closing()
        self.fd = -1

    def lookup(self, key: object) -> Any:
        """Return the value at `key`, or None. Not for per-CPU maps."""
        raw = bpf.lookup(self.fd, _encode(self.key, key), self._value_bytes, what=f"map {self.name}")
        return None if raw is None else self.value.from_buffer_copy(raw)

    def update(self, key: object, value: object, flags: int = bpf.ANY) -> None:
        """Write one element."""
        bpf.update(
            self.fd,
            _encode(self.key, key),
            _encode(self.value, value),
            flags,
            what=f"map {self.name}",
        )

    def delete(self, key: object) -> bool:
        """Delete one element; False when it was not there."""
        return bpf.delete(self.fd, _encode(self.key, key), what=f"map {self.name}")

    def every_key(self) -> list[bytes]:
        """Every key of a hash, without a look at what stands there. Some may be gone when the list is there."""
        found: dict[bytes, None] = {}
        key = None
        for _ in range(self.info.max_entries):  # one that is deleted meanwhile sends the kernel back to the first
            key = bpf.get_next_key(self.fd, key, self.info.key_size, what=f"map {self.name}")
            if key is None:
                break
            found[key] = None
        return list(found)

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Yield every element, read in batches. Not for per-CPU maps."""
        for keys, values in self.chunks():
            yield from zip(keys, values, strict=True)

    def chunks(self) -> Iterator[tuple[Any, Any]]:
        """Yield arrays of keys and of values, the quick way through 100,000 elements. Not for per-CPU maps."""
        for keys, values in self.raw_chunks():
            count = len(keys) // self.info.key_size
            yield (self.key * count).from_buffer_copy(keys), (self.value * count).from_buffer_copy(values)

    def raw_chunks(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the same as bytes, as bpf(2) gives them: of a per-CPU map, each value once for every CPU."""
        return batch.lookup_batch(self.fd, self.info.key_size, self._value_bytes, what=f"map {self.name}")

    def update_many(self, elements: Iterable[tuple[object, object]]) -> None:
        """Write many elements in one call."""
        pairs = list(elements)
        keys = b"".join(_encode(self.key, key) for key, _ in pairs)
        values = b"".join(_encode(self.value, value) for _, value in pairs)
        batch.update_batch(self.fd, keys, values, self.info.key_size, what=f"map {self.name}")

    def delete_many(self, keys: Iterable[object]) -> int:
        """Delete many elements in few calls; return how many were there."""
        raw = b"".join(_encode(self.key, key) for key in keys)
        return batch.delete_batch(self.fd, raw, self.info.key_size, what=f"map {self.name}")

    def sums(self) -> list[int]:
        """The sum over all CPUs of each 64-bit value of a per-CPU array."""
        words, totals = self._value_bytes // 8, []
        for _, values in self.raw_chunks():
            numbers = memoryview(values).cast("Q")
            totals += [sum(numbers[i : i + words]) & (1 << 64) - 1 for i in range(0, len(numbers), words)]
        return totals

    def memory(self) -> int:
        """Bytes the kernel accounts to the map (the `memlock` line of its fdinfo)."""
        for line in Path(f"/proc/self/fdinfo/{self.fd}").read_text(encoding="ascii").splitlines():
            if line.startswith("memlock:"):
                return int(line.split()[1])
        return 0


def _encode(kind: Any, given: object) -> bytes:
    if isinstance(given, int):
        return bytes(kind(given))
    raw = bytes(given)  # type: ignore[call-overload]
    if len(raw) != ctypes.sizeof(kind):
        raise ValueError(f"{len(raw)} bytes instead of {ctypes.sizeof(kind)}")
    return bytes(raw)
