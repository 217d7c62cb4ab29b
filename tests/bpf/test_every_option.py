"""The largest programs there are pass this kernel's verifier, and Debian's in the guests of tests/vm."""

from __future__ import annotations

import pytest

from jetplane.dataplane import bpf
from jetplane.dataplane.programs import PROGRAMS
from jetplane.dataplane.specialise import Facts, node_header
from tests.bpf.conftest import NodeFactory
from tests.bpf.every_option import EVERYTHING
from tests.bpf.harness import Node

OFF = {
    "TUNNEL_ETHERNET",  # takes the place of a tunnel of WireGuard's
    "GUARD_OBSERVES",  # takes the place of dropping
}
"""What cannot be on beside the others."""


@pytest.fixture
def node(make_node: NodeFactory) -> Node:
    """All programs of one node; that it is there says that the verifier has taken them."""
    return make_node(**EVERYTHING)


@pytest.mark.parametrize(
    ("program", "maps"),
    [
        ("nat_out", {"aggregates", "peer_statistics", "reuse_outer", "new_flows"}),
        ("nat_in", {"aggregates", "peer_statistics", "reuse_outer"}),
        ("guard", {"relay_sessions", "relay_clients", "source_words", "handshake_budgets"}),
    ],
)
def test_what_is_on_is_in_the_programs_that_the_kernel_has_taken(node: Node, program: str, maps: set[str]) -> None:
    used = bpf.prog_info(node.descriptor(program)).map_ids
    assert {name for name in maps if node.maps[name].info.id not in used} == set()
    for each in PROGRAMS:
        assert bpf.prog_info(node.descriptor(each.name)).type == each.type


def test_no_switch_is_off_that_can_be_on(node: Node) -> None:
    """A new option has to be switched on above."""
    lines = node_header(node.config, Facts("/nowhere", uplink_ifindex=7)).splitlines()
    defined = (line.split() for line in lines if line.startswith("#define"))
    assert {words[1] for words in defined if words[2:] == ["0"]} == OFF
