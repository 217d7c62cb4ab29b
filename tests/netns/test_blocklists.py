"""A list that changes under a running node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jetplane.lab import topology, traffic
from jetplane.lab.addresses import SITES_IPV4, SITES_IPV6, LabOptions
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def listed(root: None) -> Iterator[tuple[Lab, Path]]:
    """A lab whose node reads a blocklist, and the list; it is empty at first."""
    with topology.lab(LabOptions(transport="veth")) as built:
        file = built.directory / "blocked.txt"
        file.write_text("# nobody yet\n")
        settings = built.node.config
        settings.write_text(settings.read_text().replace("[guard]", f'[guard]\nblocklists = ["{file}"]'))
        built.start()
        yield built, file


def answers(lab: Lab, site: str) -> bool:
    return traffic.ping(traffic.Visit(lab.name, lab.plan.subscribers[0].namespace, site), 1, wait=1) == 1


def problems(lab: Lab) -> str:
    return "\n".join(lab.node.status()["problems"])


def test_a_changed_list_holds_after_a_reload_and_a_wrong_one_changes_nothing(listed: tuple[Lab, Path]) -> None:
    lab, file = listed
    sites = (SITES_IPV4[0], SITES_IPV6[0])
    assert all(answers(lab, site) for site in sites)

    file.write_text("".join(f"{site}\n" for site in sites))
    lab.node.reload()
    wait_until("the list to hold", lambda: not any(answers(lab, site) for site in sites))
    assert answers(lab, SITES_IPV4[1]), "its neighbour is not on the list"
    assert lab.node.status()["counters"]["BLOCKED"] > 0

    file.write_text(f"{sites[0]}\nnot an address\n")
    lab.node.reload()
    wait_until("the node to say so", lambda: f"{file}:2: is not an address" in problems(lab))
    assert not any(answers(lab, site) for site in sites), "the old list is still in force"

    file.write_text("")
    lab.node.reload()
    wait_until("the list to be lifted", lambda: all(answers(lab, site) for site in sites))
    assert problems(lab) == ""


def test_a_node_does_not_start_with_a_list_that_is_wrong(listed: tuple[Lab, Path]) -> None:
    lab, file = listed
    file.write_text("10.0.0.1/8\n")
    try:
        checked = lab.node.jetplane("check")
        assert checked.returncode == 1
        said = " ".join((checked.stdout + checked.stderr).decode().split())
        assert "has bits beyond its prefix length" in said
    finally:
        file.write_text("")
