"""Which tunnels drain, and when the last subscriber has gone: told once, without a name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from jetplane.config import Config, parse
from jetplane.drain import Drain
from jetplane.errors import ConfigurationError


def config(*names: str) -> Config:
    tunnels = [
        {
            "name": name,
            "listen_port": 51820 + number,
            "private_key_file": "key",
            "addresses": [f"10.{64 + number}.0.1/16"],
        }
        for number, name in enumerate(names)
    ]
    tree = {"uplink": {"interface": "up0"}, "exit": {"ipv4": ["203.0.113.10"]}, "tunnel": tunnels}
    return parse({**tree, "peers": {"path": "peers"}}, Path("/x"))


class Kernel:
    """The map of ports; the counts and the timers are the test's to give."""

    def __init__(self) -> None:
        self.ports: frozenset[int] = frozenset()
        self.asked: list[tuple[set[str], Callable[[Any], None]]] = []
        self.timers: dict[str, Callable[[], object]] = {}

    def draining(self) -> frozenset[int]:
        return self.ports

    def set_draining(self, ports: Iterable[int]) -> None:
        self.ports = frozenset(ports)

    def ask(self, tunnels: Iterable[str], answer: Callable[[Any], None]) -> None:
        self.asked.append((set(tunnels), answer))

    def once(self, _: float, name: str, work: Callable[[], object]) -> None:
        self.timers[name] = work


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def drain(kernel: Kernel) -> Drain:
    return Drain(kernel, kernel.once)  # type: ignore[arg-type]


def test_one_tunnel_drains_or_all_do(kernel: Kernel, drain: Drain) -> None:
    both: Any = (config("jet0", "jet1"), kernel)
    drain.begin(["jet1"], *both)
    assert (drain.tunnels, kernel.ports) == (("jet1",), {51821})
    drain.begin([], *both)
    assert (drain.tunnels, kernel.ports) == (("jet0", "jet1"), {51820, 51821})
    drain.end(["jet0"], *both)
    assert (drain.tunnels, kernel.ports) == (("jet1",), {51821})
    drain.end([], *both)
    assert (drain.tunnels, kernel.ports) == ((), frozenset())


def test_a_tunnel_that_is_not_there_changes_nothing(kernel: Kernel, drain: Drain) -> None:
    work: Any = (config("jet0"), kernel)
    with pytest.raises(ConfigurationError, match="there is none of this name"):
        drain.begin(["jet0", "jet7"], *work)
    assert (drain.tunnels, kernel.ports) == ((), frozenset())


def test_the_next_controller_goes_on_and_a_changed_port_is_followed(kernel: Kernel, drain: Drain) -> None:
    kernel.ports = frozenset({51821})
    drain.resume(config("jet0", "jet1"), kernel)  # type: ignore[arg-type]
    assert drain.tunnels == ("jet1",)
    drain.renew(config("jet1"), kernel)  # type: ignore[arg-type]
    assert kernel.ports == {51820}
    drain.renew(config("jet5"), kernel)  # type: ignore[arg-type]
    assert (drain.tunnels, kernel.ports) == ((), frozenset()), "the tunnel is gone, and its drain with it"


def test_the_end_is_told_once_when_the_last_session_has_ended(
    kernel: Kernel, drain: Drain, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    work: Any = (config("jet0", "jet1"), kernel)
    drain.begin([], *work)
    for counts in ({"jet0": 2, "jet1": None}, {"jet0": 0, "jet1": 1}, {"jet0": 0, "jet1": 0}):
        kernel.timers.pop("drain")()
        kernel.asked.pop()[1](counts)
    told = [record.getMessage() for record in caplog.records if "last session" in record.getMessage()]
    assert told == [f"{name}: drained, the last session has ended" for name in ("jet0", "jet1")]
    assert "drain" not in kernel.timers, "nobody is left to be counted"
    drain.hear({"jet0": 0, "jet1": 0})
    assert len([r for r in caplog.records if "last session" in r.getMessage()]) == 2
