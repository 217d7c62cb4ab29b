"""What a report tells of a subscriber's tokens and ports; of flows, test_nat_reuse.py and test_nat_fragments.py do."""

from __future__ import annotations

import time

from tests.bpf.harness import Node
from tests.bpf.nat_world import INNER, INNER_2, PEER, change_peer, out_packet, prepare, send_out
from tests.bpf.reported import reported

HOUR_NS = 3600 * 10**9


def test_a_report_tells_of_tokens_and_ports_that_are_held(node: Node) -> None:
    prepare(node)
    for port in (40000, 40001, 123):
        send_out(node, out_packet(4, "udp", sport=port))
    then = time.monotonic_ns() + HOUR_NS
    node.maps["new_flows"].update(PEER, then)
    change_peer(node, PEER, answers=(then,))
    (entry,), (idle,) = (reported(node, inner.values())["entries"] for inner in (INNER, INNER_2))
    ahead = entry["ahead_of_rate_ns"]
    assert 0 < ahead["new_flows"] <= HOUR_NS and 0 < ahead["answers"] <= HOUR_NS and not ahead["up"]
    assert (entry["port_blocks"], entry["system_ports"]) == (1, 1)
    assert (idle["port_blocks"], idle["system_ports"]) == (0, 0)
    assert not any(idle["ahead_of_rate_ns"].values())
