"""From bcc's descriptions of types to ctypes."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import pytest

from jetplane.dataplane import layout
from jetplane.dataplane.layout import Layout, Record, ctype
from jetplane.errors import CompileError

BUCKET = ["bucket", [["refilled_ns", "unsigned long long"], ["tokens", "unsigned long long"]], "struct_packed"]

SIZES: tuple[tuple[str, Any, int], ...] = (
    ("a 32-bit number", "unsigned int", 4),
    ("a long of the BPF target", "unsigned long", 8),
    ("an array", ["address", [["bytes", "unsigned char", [16]]], "struct_packed"], 16),
    ("a struct in a struct", ["peer", [["index", "unsigned int", [2]], ["up", BUCKET]], "struct_packed"], 24),
    ("padding that is spelled out", ["p", [["a", "char"], ["__pad_1", "char", [3]], ["b", "int"]], "struct_packed"], 8),
    ("padding that is not", ["p", [["a", "char"], ["b", "int"]], "struct"], 8),
    ("a union", ["u", [["a", "unsigned int"], ["b", "unsigned short", [8]]], "union"], 16),
    ("bits", ["f", [["a", "unsigned int", 4], ["b", "unsigned int", 28]], "struct"], 4),
    (
        "a spin lock",
        ["v", [["lock", ["bpf_spin_lock", [["val", "unsigned int"]], "struct_packed"]]], "struct_packed"],
        4,
    ),
    (
        "an anonymous union",
        ["v", [["", [["a", "unsigned int"], ["b", "unsigned char"]], "union"], ["c", "int"]], "struct_packed"],
        8,
    ),
)


@pytest.mark.parametrize(("description", "size"), [row[1:] for row in SIZES], ids=[row[0] for row in SIZES])
def test_size_of(description: Any, size: int) -> None:
    assert ctypes.sizeof(ctype(description)) == size


def test_members_of_an_anonymous_union_are_reached_by_name() -> None:
    kind = ctype(["v", [["", [["a", "unsigned int"], ["b", "unsigned char", [4]]], "union"]], "struct"])
    assert bytes(kind(a=0x01020304).b) == (0x01020304).to_bytes(4, "little")


def test_a_member_that_shares_a_name_with_no_python_idea_keeps_its_value() -> None:
    kind = ctype(["k", [["prefix_bits", "unsigned int"], ["port", "unsigned short"], ["rest", "char", [2]]], "struct"])
    assert bytes(kind(prefix_bits=32, port=0x5000)) == b"\x20\0\0\0\0\x50\0\0"


UNREADABLE: tuple[Any, ...] = ("float3", ["x"], ["x", [["a"]], "struct"], ["x", [["a", "int", {}]], "struct"], 7)


@pytest.mark.parametrize("description", UNREADABLE)
def test_a_description_of_another_form_is_refused(description: Any) -> None:
    with pytest.raises(CompileError, match="map layout"):
        ctype(description)


RECORD = Record("maps-1", "programs-2", ("203.0.113.1",), {"peers": Layout("unsigned int", BUCKET, 4, 16, 64, 9)})


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    layout.save(tmp_path / "layout.json", RECORD)
    assert layout.load(tmp_path / "layout.json") == RECORD


def test_a_record_of_an_earlier_boot_is_none(tmp_path: Path) -> None:
    path = tmp_path / "layout.json"
    layout.save(path, RECORD)
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))
    assert layout.load(path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"maps": {"a": {"key": 1}}}', '{"maps": 1}'])
def test_a_record_that_is_not_whole_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "layout.json").write_text(text)
    assert layout.load(tmp_path / "layout.json") is None


def test_no_record_is_none(tmp_path: Path) -> None:
    assert layout.load(tmp_path / "layout.json") is None
