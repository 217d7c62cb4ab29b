"""Boots the guests, all at once, when the first of them is waited for; while they run, other workers run this
machine's own tests.

What lies in inside/ is for the guests alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.vm.guest import Guest
from tests.vm.kernels import SERIES, KernelMissing, kernel

collect_ignore = [] if "JETPLANE_REPORTS" in os.environ else ["inside"]

LIMIT_S = 60 * 60
"""From boot to power-off; then a guest is ended. A quarter of it is enough on an idle machine of two processors."""

TESTS = (
    # The largest programs pass this kernel's verifier; and what they do. All of tests/bpf would take an hour emulated.
    "tests/bpf/test_every_option.py",
    "tests/bpf/test_nat_sessions.py::test_a_packet_leaves_from_the_exit_address_and_its_answer_returns",
    "tests/bpf/test_layer3.py",
    # What depends on the kernel and its WireGuard; what in it does not is marked `native`.
    "tests/netns/test_node.py",
    "tests/netns/test_network.py",
    "tests/netns/test_wireguard.py",
    "tests/netns/test_wireguard_traffic.py",
    "tests/netns/test_wireguard_sweep.py",
)

Guests = dict[str, Guest | KernelMissing]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The guests take longest, so they come first; then what they run, so that its programs are compiled by the time
    they get to it."""
    modules = {test.partition("::")[0] for test in TESTS}

    def place(item: pytest.Item) -> int:
        module = item.nodeid.partition("::")[0]
        return 0 if module.startswith("tests/vm/") else 1 if module in modules else 2

    items.sort(key=place)


@pytest.fixture(scope="session")
def guests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """The guests that tests of this session ask for, by series, booted together; ended however the session ends."""
    ours = (item for item in request.session.items if isinstance(item, pytest.Function))
    wanted = {item.callspec.params["series"] for item in ours if "guest_of" in item.fixturenames}
    made: Guests = {}
    try:
        for series in filter(wanted.__contains__, SERIES):
            try:
                directory = tmp_path_factory.mktemp(f"linux-{series}")
                made[series] = Guest(kernel(series), directory, *TESTS, limit=LIMIT_S + 60)
            except KernelMissing as error:
                made[series] = error
        yield made
    finally:
        for guest in made.values():
            if isinstance(guest, Guest):
                guest.end()


@pytest.fixture
def guest_of(guests: Guests, series: str) -> Iterator[Guest]:
    """The guest of this series; off when the test that waits for it is over."""
    guest = guests[series]
    if isinstance(guest, KernelMissing):
        pytest.fail(str(guest), pytrace=False)
    yield guest
    guest.end()
