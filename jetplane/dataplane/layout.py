"""From the layouts that the compiler reports to ctypes. Python holds no copy of a C struct.

bcc describes a map's key and value as JSON (src/cc/json_map_decl_visitor.cc): a C type's name, or
`[name, [[field, type] | [field, type, [length]] | [field, type, bits], …], "struct" | "struct_packed" | "union"]`.
In "struct_packed" all padding is spelled out as fields; "struct" is laid out naturally. An anonymous member stands
as its type alone.
"""

from __future__ import annotations

import ctypes
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetplane.errors import CompileError

# Sizes by the BPF target's rules: long is 64 bits, whatever this machine's C says.
_SCALARS: dict[str, Any] = {
    "_Bool": ctypes.c_bool,
    "bool": ctypes.c_bool,
    "char": ctypes.c_char,
    "signed char": ctypes.c_int8,
    "unsigned char": ctypes.c_uint8,
    "short": ctypes.c_int16,
    "unsigned short": ctypes.c_uint16,
    "int": ctypes.c_int32,
    "unsigned int": ctypes.c_uint32,
    "long": ctypes.c_int64,
    "unsigned long": ctypes.c_uint64,
    "long long": ctypes.c_int64,
    "unsigned long long": ctypes.c_uint64,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """How one map is laid out; sizes in bytes, of one CPU's value."""

    key: Any  # bcc's description
    value: Any
    key_size: int
    value_size: int
    max_entries: int
    id: int  # the kernel's, of the map that was loaded

    @property
    def key_type(self) -> Any:
        """The ctypes type of a key."""
        return ctype(self.key)

    @property
    def value_type(self) -> Any:
        """The ctypes type of a value."""
        return ctype(self.value)


def ctype(description: Any) -> Any:
    """Turn bcc's description of a type into a ctypes type. Raises CompileError when it is of an unknown form."""
    if isinstance(description, str):
        if description not in _SCALARS:
            raise CompileError(f"map layout: unknown type {description}")
        return _SCALARS[description]
    match description:
        case [str(name), list(members), ("struct" | "struct_packed" | "union") as kind]:
            return _compound(name, members, kind)
        case [str(name), list(members)]:  # very old descriptions leave "struct" out
            return _compound(name, members, "struct")
    raise CompileError(f"map layout: cannot read {json.dumps(description)}")


def _compound(name: str, members: list[Any], kind: str) -> Any:
    fields: list[Any] = []
    anonymous: list[str] = []
    for member in members:
        match member:
            case [str(field), inner]:
                fields.append((field, ctype(inner)))
            case [str(field), inner, [int(length)]]:
                fields.append((field, ctype(inner) * length))
            case [str(field), inner, int(bits)]:
                fields.append((field, ctype(inner), bits))
            case [str(_), list(_), str(_)]:
                anonymous.append(f"_anonymous{len(anonymous)}")
                fields.append((anonymous[-1], ctype(member)))
            case _:
                raise CompileError(f"map layout: cannot read a member of {name}: {json.dumps(member)}")
    body: dict[str, Any] = {"_anonymous_": tuple(anonymous), "_fields_": fields}
    if kind == "struct_packed":
        body = {
            "_pack_": 1,
            "_layout_": "ms",
            **body,
        }  # Python 3.14 wants the second named beside the first
    return type(
        name or "anonymous",
        (ctypes.Union if kind == "union" else ctypes.Structure,),
        body,
    )


@dataclass(frozen=True, slots=True)
class Record:
    """layout.json: what the loader left, and in which boot of the machine."""

    layout: str  # name of the directory of maps
    build: str  # name of the directory of programs
    exits: tuple[str, ...]  # exit addresses in the order of their index
    maps: dict[str, Layout]


def save(path: Path, record: Record) -> None:
    """Write layout.json, replacing it as a whole."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps({"boot": boot(), **asdict(record)}, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def load(path: Path) -> Record | None:
    """Read layout.json back; None when there is none, it is not whole, or it is of an earlier boot."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        maps = {name: Layout(**entry) for name, entry in tree["maps"].items()}
        return Record(tree["layout"], tree["build"], tuple(tree["exits"]), maps) if tree["boot"] == boot() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def boot() -> str:
    """The id of this boot of the machine (proc(5)): no program or pin outlives it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
