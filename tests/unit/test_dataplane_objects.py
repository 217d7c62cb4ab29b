"""The names that compiled objects are kept under."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jetplane import abi
from jetplane.config import parse
from jetplane.dataplane import objects
from jetplane.dataplane.specialise import Facts, node_header

SOURCES = ("guard.bpf.c", "nat.bpf.c")


def header(pin_root: str = "/maps", **changes: Any) -> str:
    tunnel = {"name": "jet0", "listen_port": 51820, "private_key_file": "/key", "addresses": ["10.64.0.1/16"]}
    exit_ = {"ipv4": ["203.0.113.10"]}
    tree = {"uplink": {"interface": "up0"}, "exit": exit_, "tunnel": [tunnel], "peers": {"path": "/peers"}, **changes}
    return node_header(parse(tree, Path("/node.toml")), Facts(pin_root, uplink_ifindex=2))


def named(text: str) -> dict[str, str]:
    return {source: objects.name(text, abi.EBPF / source, ["p"], ["m"], "0.26.0") for source in SOURCES}


@pytest.mark.parametrize(
    ("changes", "compiled"),
    [
        ({}, set()),
        ({"pin_root": "/others"}, set()),
        ({"guard": {"icmp_echo_per_second": 7}}, {"guard.bpf.c"}),
        ({"nat": {"port_parity": True}}, {"nat.bpf.c"}),
        ({"exit": {"ipv4": ["203.0.113.11"]}}, set(SOURCES)),
        ({"peers": {"path": "/peers", "max": 77}}, set(SOURCES)),
    ],
    ids=lambda value: ",".join(sorted(value)) or "nothing",
)
def test_a_source_is_compiled_anew_when_something_that_it_asks_for_has_changed(
    changes: dict[str, Any], compiled: set[str]
) -> None:
    before, after = named(header()), named(header(**changes))
    assert {source for source in SOURCES if before[source] != after[source]} == compiled


def test_every_constant_is_asked_for_by_its_whole_name() -> None:
    """One that is pasted together would be overlooked."""
    texts = [path.read_text() for path in abi.EBPF.iterdir() if path.suffix in objects.SUFFIXES]
    assert objects.asked_for(header(), texts) == header().splitlines()


def test_what_a_kept_constant_is_made_of_is_kept() -> None:
    text = "#define A B\n#define B (C | \\\n\tD)\n#define E 1\n#ifdef F\n#endif"
    assert objects.asked_for(text, ["a line with A;"]) == text.replace("#define E 1\n", "").splitlines()


def test_a_file_that_is_included_by_one_that_is_counts(tmp_path: Path) -> None:
    (tmp_path / "a.bpf.c").write_text('#include "b.h"\n#include <linux/ip.h>\n')
    (tmp_path / "b.h").write_text(' # include "c.def"\n#include "a.bpf.c"\n#include "node.h"\n')
    names = set()
    for text in ("X(1)", "X(2)", "X(ONE)"):
        (tmp_path / "c.def").write_text(text)
        (tmp_path / "d.h").write_text(text)
        names.add(objects.name("#define ONE 1", tmp_path / "a.bpf.c", [], [], "1"))
    names.add(objects.name("#define ONE 2", tmp_path / "a.bpf.c", [], [], "1"))
    names.add(objects.name("#define TWO 2", tmp_path / "a.bpf.c", [], [], "1"))
    assert len(names) == 5
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in names)
