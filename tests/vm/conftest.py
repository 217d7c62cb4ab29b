"""Boots the guests as soon as it is known that they are wanted, so that they run while this machine runs its own tests.

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

_GUESTS = pytest.StashKey[dict[str, Guest | KernelMissing]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the guests run comes first here: by the time they get to it, its programs are compiled."""
    modules = {test.partition("::")[0] for test in TESTS}
    items.sort(key=lambda item: item.nodeid.partition("::")[0] not in modules)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Boot a guest for each series whose test was selected."""
    if session.config.option.collectonly:
        return
    ours = (item for item in session.items if isinstance(item, pytest.Function) and "guest_of" in item.fixturenames)
    selected = {item.callspec.params["series"] for item in ours}
    guests = session.config.stash.setdefault(_GUESTS, {})
    for series in filter(selected.__contains__, SERIES):
        directory = session.config._tmp_path_factory.mktemp(f"linux-{series}")  # type: ignore[attr-defined]
        try:
            guests[series] = Guest(kernel(series), directory, *TESTS, limit=LIMIT_S + 60)
        except KernelMissing as error:
            guests[series] = error


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what still runs, however the session ended."""
    for guest in config.stash.get(_GUESTS, {}).values():
        if isinstance(guest, Guest):
            guest.end()


@pytest.fixture
def guest_of(request: pytest.FixtureRequest, series: str) -> Iterator[Guest]:
    """The guest of this series, booted when the session began."""
    guest = request.config.stash[_GUESTS][series]
    if isinstance(guest, KernelMissing):
        pytest.fail(str(guest), pytrace=False)
    yield guest
    guest.end()
