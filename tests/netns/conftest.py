"""Labs that many tests share: building one costs seconds, tens of seconds in an emulated machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from jetplane.lab import namespaces, topology
from jetplane.lab.addresses import LabOptions
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import slowness
from tests.netns import nat_place
from tests.netns.wireguard_pair import pair as pair  # a fixture
from tests.netns.wireguard_tunnel import tunnel as tunnel  # a fixture


@pytest.fixture(scope="session")
def download_size() -> int:
    """Bytes of a download that takes seconds, not minutes, on this machine."""
    return 32 << 20 if slowness() < 3 else 1 << 20


@pytest.fixture(scope="module")
def namespace(root: None, unique: Callable[[str], str]) -> Iterator[str]:
    """An empty namespace, of one module's tests."""
    name = unique("n")
    namespaces.create(name)
    yield name
    namespaces.remove(name)


@pytest.fixture(scope="module")
def lab(root: None) -> Iterator[Lab]:
    """A lab with its node running: two tunnels, three exit addresses of each family, a hundred idle peers.

    A test that breaks something mends it.
    """
    with topology.lab(LabOptions(tunnels=2, exit_addresses=3, peers=100)) as built:
        built.start()
        yield built


@pytest.fixture(scope="session")
def nat_lab(root: None) -> Iterator[Lab]:
    """A running node with plain Ethernet for tunnels, and a host behind a router (nat_place.py). For many tests: what
    one of them changes it puts back, or switches on in the case of offloads."""
    with topology.lab(LabOptions(transport="veth")) as built:
        nat_place.add_far_host(built)
        built.start()
        yield built
