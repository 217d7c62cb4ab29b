"""Loads the programs for the tables: compiled and verified once per configuration, in a bpffs of the session's own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from jetplane.config import parse
from jetplane.dataplane.programs import PROGRAMS
from tests.bpf.harness import Node

NodeFactory = Callable[..., Node]

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "uplink": {"interface": "up0"},
    "exit": {"ipv4": ["203.0.113.10", "203.0.113.11"], "ipv6": ["2001:db8::a", "2001:db8::b"]},
    "peers": {"path": "/nowhere", "max": 64},
    "nat": {"max_bindings": 4096, "max_remotes": 4096},
    "policy": {"new_flows_per_second": 0},
    "guard": {"icmp_echo_per_second": 5, "bogons": False, "handshakes_per_second": 0},
}
TUNNELS = [
    {
        "name": f"jet{index}",
        "listen_port": 51820 + index,
        "private_key_file": "/nowhere",
        "addresses": [f"10.{64 + index}.0.1/16", f"fd0{index}::1/64"],
    }
    for index in range(2)
]


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpffs of this session's own, gone with it."""
    path = tmp_path_factory.mktemp("bpffs")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(path), b"bpf", 0, b"mode=0700") < 0:
        raise OSError(ctypes.get_errno(), "mounting a bpffs")
    yield path
    libc.umount2(os.fsencode(path), 2)  # MNT_DETACH


@pytest.fixture(scope="session")
def make_node(bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeFactory]:
    """make_node(nat={"filtering": "address-and-port"}): a node with these settings changed; one per change.

    `source` leaves out the programs of other files, so that one of them may fail alone. `uplink` is an index: by
    default the loopback's, which has no neighbours. A `witness` is what harness.Node says.

    `follower` names a tunnel that another follows, as while the node's key changes.

    Tunnels are Ethernet devices here, unless transport="wireguard" is asked for: BPF_PROG_TEST_RUN gives every
    classifier an Ethernet header.
    """
    made: dict[str, Node] = {}

    def make(
        *,
        source: str | None = None,
        transport: str = "veth",
        uplink: int = 1,
        witness: bool = False,
        follower: str = "",
        **changes: Mapping[str, Any],
    ) -> Node:
        key = repr((source, transport, uplink, witness, follower, sorted(changes.items())))
        if key not in made:
            tables = {name: {**SETTINGS.get(name, {}), **changes.get(name, {})} for name in {**SETTINGS, **changes}}
            second = {"name": "next0", "listen_port": 51999, "private_key_file": "/key", "follows": follower}
            tunnels = [*TUNNELS, second] if follower else TUNNELS
            config = parse({**tables, "tunnel": tunnels, "transport": transport}, Path("/node.toml"))
            wanted = [program for program in PROGRAMS if source in (None, program.source)]
            pins, build = bpffs / f"node{len(made)}", tmp_path_factory.mktemp("build")
            made[key] = Node(config, wanted, pins=pins, build=build, uplink=uplink, witness=witness)
        return made[key]

    yield make
    for node in made.values():
        node.close()


@pytest.fixture
def node(make_node: NodeFactory) -> Node:
    """The node that most rows of the translation are about, with empty maps."""
    node = make_node(source="nat.bpf.c")
    node.reset()
    return node
