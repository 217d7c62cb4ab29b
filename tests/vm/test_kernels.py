"""The tests that depend on the kernel again, on Debian's own kernels with WireGuard in the kernel.

    one worker of this pytest                       two guests at once: linux 6.1 and 6.12
    ─────────────────────────                       ──────────────────────────────────────
    kernels.py   apt-get download, dpkg -x, depmod
        │        ~/.cache/jetplane/kernels/
        ▼
    guest.py     vng (virtme-ng, qemu) ───────────► boots over this machine's files, read-only; nothing is installed
        │        KVM where it works, else           │
        │        plain emulation, 10–30 × slower    ▼
        │                                           inside.sh   modprobe, PATH, JETPLANE_REQUIRE=kernel-wireguard
        │                                               │
        │                                               ▼
        │        one writable directory over 9p     pytest tests/vm/inside and what conftest.py lists
        │                 ┌───────────────┐             │
        ▼                 │ reports.jsonl │ ◄───────── reports.py, a plugin: a line per event, at once
    reports.py  ◄──────── │ output.txt    │
        │                 └───────────────┘
        ▼
    each inner test is a result of this run: linux-6.12/tests/netns/test_….py::test_…

Meanwhile the other worker runs this machine's own tests.

The first test below stands for a machine: it passes when the guest ran all that it collected and went off by itself.
A guest that hangs is ended, by pid, at its deadline, and the test names where it was and what the kernel said last.
"""

from __future__ import annotations

import pytest

from tests.vm.conftest import LIMIT_S, TESTS, Guests
from tests.vm.guest import Guest
from tests.vm.kernels import SERIES
from tests.vm.reports import Reader


@pytest.mark.timeout(LIMIT_S + 120)
@pytest.mark.parametrize("series", SERIES)
def test_a_guest_runs_every_test_and_goes_off_by_itself(
    series: str, guest_of: Guest, request: pytest.FixtureRequest
) -> None:
    reader = Reader(request.node, f"linux-{series}")
    try:
        for line in guest_of.lines(guest_of.booted + LIMIT_S):
            reader.take(line)
    except TimeoutError:
        pytest.fail(f"linux {series} hung {reader.running}\n{guest_of.story()}", pytrace=False)
    if reader.uncollected:
        pytest.fail("\n".join(reader.uncollected), pytrace=False)
    # 1: every test ran and some failed; those are results of their own.
    if reader.exit_status not in (0, 1):
        pytest.fail(f"linux {series} went off {reader.running}\n{guest_of.story()}", pytrace=False)


def test_every_guest_ran_the_same_tests(guests: Guests) -> None:
    """What one kernel leaves out would not be missed otherwise. Also keeps pytest-xdist from handing the worker that
    waits for the guests another file, which would wait, too: it does so where fewer than three tests are left."""
    ran = {series: guest.tests() for series, guest in guests.items() if isinstance(guest, Guest)}
    assert set(ran) == set(SERIES)
    assert len({frozenset(names) for names in ran.values()}) == 1, ran
    assert all(len(names) > len(TESTS) for names in ran.values())
