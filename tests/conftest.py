"""What every test may rely on: being root where it must be, names of its own, and nothing left behind."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from jetplane.lab.waiting import slowness
from jetplane.wireguard import choose
from jetplane.wireguard.interface import Kind
from tests.vm.kernels import CACHE

pytest_plugins = ["tests.vm.reports"]

# Programs are compiled once: for all tests, the guests of tests/vm, and the next run.
os.environ.setdefault("CACHE_DIRECTORY", str(CACHE))

REQUIRED = frozenset(filter(None, os.environ.get("JETPLANE_REQUIRE", "").split(",")))
"""What this run must not do without; `kernel-wireguard` in the guests of tests/vm."""

_MOST_PATIENCE = 5

ONCE = frozenset(
    f"tests/netns/test_{name}.py"
    for name in ("attacks", "audit", "exporter_confined", "relay", "statistics", "swap_leaks", "wireguard_secrets")
)
"""What looks for a leak: seen once, it is one."""

NO_SKIPS = bool(REQUIRED or os.environ.get("CI"))

# Namespaces, links and directories that a test, or a lab started by one, makes: the number is its process.
_OURS = re.compile(r"(jet|jetlab-)?(?P<pid>\d+)")


@pytest.fixture(scope="session")
def root() -> None:
    """For tests that make namespaces, load programs or send raw packets."""
    if os.geteuid() != 0:
        pytest.fail("needs root: run `make test`, or pytest through sudo", pytrace=False)


@pytest.fixture(scope="session")
def unique() -> Callable[[str], str]:
    """unique("n") → a name for a namespace or link that nothing on this machine has, at most 15 characters."""
    numbers = itertools.count()

    def name(suffix: str) -> str:
        made = f"jet{os.getpid()}{suffix}{next(numbers)}"
        assert len(made) <= 15, f"{made} is too long for a link: the suffix must be shorter"
        return made

    return name


@pytest.fixture(scope="session")
def wireguard_kind(root: None) -> Kind:
    """The WireGuard that `backend = "auto"` must choose here; compare what a node or a demo reports with it."""
    kind = choose("auto").kind
    if "kernel-wireguard" in REQUIRED and kind != "kernel":
        pytest.fail(f"JETPLANE_REQUIRE names kernel-wireguard, but {kind} was chosen", pytrace=False)
    return kind


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say which tests may run twice, and give them time.

    Other people's clients, real clocks and an emulated machine share two processors in tests/netns: what fails there
    for lack of a processor is run once more. The summary names it (R), so that what needs it often can be mended.

    Time limits are for an ordinary machine; an emulated one gets more, up to what its guest has in all.
    """
    for item in items:
        module = item.nodeid.partition("::")[0]
        if module.startswith("tests/netns/") and module not in ONCE:
            item.add_marker(pytest.mark.flaky(reruns=1))
    factor = min(slowness(), _MOST_PATIENCE)
    if factor < 2:
        return
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = marker.args[0] if marker else float(config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(seconds * factor), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may be skipped, a skipped test has failed. An expected failure (xfail) is not a skip."""
    report = yield
    if not hasattr(report, "wasxfail"):
        _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself."""
    report = yield
    _forbid_skip(report)
    return report


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and NO_SKIPS:
        report.outcome = "failed"
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.longrepr = f"skipped where nothing may be: {reason}"


def pytest_sessionstart(session: pytest.Session) -> None:
    """What workers must agree about, before they start."""
    os.environ.setdefault("JETPLANE_SLOWNESS", f"{slowness():.2f}")  # some tests are collected by it


def pytest_configure(config: pytest.Config) -> None:
    """A worker has the places to itself where labs and namespaces are found by name: each lab that begins clears away
    what is left of others, and one worker's tests leave something on purpose."""
    if hasattr(config, "workerinput") and os.geteuid() == 0:
        _call("unshare", _CLONE_NEWNS)
        _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
        for place in _PLACES:
            place.mkdir(exist_ok=True)
            _call("mount", b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"mode=0755")


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 1 << 14, 1 << 18
_PLACES = tuple(Path("/run", name) for name in ("netns", "wireguard", "jetplane-lab"))


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the session that leaves a namespace, a link, a lab or a mount on the machine."""
    temporary = tmp_path_factory.getbasetemp()
    before = _leftovers(temporary)
    yield
    left = sorted(_leftovers(temporary) - before)
    if left:
        pytest.fail("left behind: " + ", ".join(left), pytrace=False)


def _leftovers(temporary: Path) -> set[str]:
    """Name what tests could have made; what a running process of somebody else made is not ours."""
    places = ("/run/netns", "/sys/class/net", "/run/jetplane-lab")
    found = {str(path) for place in places if Path(place).is_dir() for path in Path(place).iterdir()}
    mounts = {line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()}
    mine = {mount for mount in mounts if Path(mount).is_relative_to(temporary)}
    return mine | {name for name in found if (made := _OURS.match(Path(name).name)) and not _foreign(int(made["pid"]))}


def _foreign(pid: int) -> bool:
    return pid != os.getpid() and Path(f"/proc/{pid}").exists()
