"""Multi-hop with everything real: subscriber → entry → exit → site, and neither node knows both ends."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from jetplane.dataplane import layout
from jetplane.dataplane.maps import Map
from jetplane.lab import entry, namespaces, topology, traffic
from jetplane.lab.addresses import SITES_IPV4, SITES_IPV6, LabOptions
from jetplane.lab.entry import MultiHop
from jetplane.lab.node import Node
from jetplane.lab.waiting import wait_until

pytestmark = pytest.mark.timeout(600)

PAIRS = [(here, there) for here in (4, 6) for there in (4, 6)]


@pytest.fixture(scope="module")
def multihop(root: None) -> Iterator[MultiHop]:
    with topology.lab(LabOptions()) as lab:
        lab.start()
        with entry.multihop(lab) as made:
            yield made


def reaches(multihop: MultiHop, site: str) -> bool:
    return traffic.ping(multihop.visit(site), 1, wait=1) == 1


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_a_subscriber_reaches_sites_through_two_nodes(
    multihop: MultiHop, tmp_path: Path, here: int, there: int
) -> None:
    multihop.dial(here, there)
    wait_until("the tunnel", lambda: reaches(multihop, SITES_IPV4[0]))
    assert traffic.download(multihop.visit(SITES_IPV6[0]), 4 << 20, tmp_path).whole
    assert traffic.udp_echo(multihop.visit(SITES_IPV4[0]), 20, size=1392) == 20
    assert multihop.entry.status()["counters"]["RELAYED"] > 0


def test_a_subscriber_whose_port_changes_goes_on(multihop: MultiHop) -> None:
    multihop.dial(4, 6)
    wait_until("the tunnel", lambda: reaches(multihop, SITES_IPV4[0]))
    sessions = _sessions(multihop)
    multihop.wg("listen-port", "50999")
    wait_until("the tunnel after the change", lambda: reaches(multihop, SITES_IPV4[0]))
    assert _sessions(multihop) >= sessions


def _sessions(multihop: MultiHop) -> int:
    return int(multihop.entry.status()["counters"]["RELAYED"])


def test_neither_node_knows_both_ends(multihop: MultiHop) -> None:
    """The entry's maps hold the subscriber and no site; the exit node's hold neither."""
    multihop.dial(4, 4)
    wait_until("the tunnel", lambda: reaches(multihop, SITES_IPV4[0]))
    assert reaches(multihop, SITES_IPV6[0])
    client = entry.FAR_IPV4.ip.packed
    inner = [ip_address(address).packed for address in entry.INNER]
    sites = [ip_address(site).packed for site in (*SITES_IPV4, *SITES_IPV6)]
    at_entry, at_exit = _memory(multihop.entry), _memory(multihop.lab.node)
    assert client in at_entry, "the search finds what there is to find"
    assert not any(address in at_entry for address in (*inner, *sites))
    assert all(address in at_exit for address in inner), "the search finds what there is to find"
    assert not any(address in at_exit for address in (client, *sites))
    shown = namespaces.run(multihop.lab.plan.node, ["wg", "show", "all", "endpoints"], lab=multihop.lab.name, timeout=9)
    assert str(entry.ENTRY_IPV4.ip).encode() in shown.stdout
    assert str(entry.FAR_IPV4.ip).encode() not in shown.stdout


def _memory(node: Node) -> bytes:
    """Everything that the BPF maps of a node hold."""
    record = layout.load(node.run_directory / "layout.json")
    assert record is not None
    found = bytearray()
    for name, described in record.maps.items():
        with Map(node.run_directory / "bpf" / record.layout, name, described) as opened:
            for keys, values in opened.raw_chunks():
                found += keys + values
    return bytes(found)
