"""A fleet: one server, many nodes, and everything that may die does. Nothing is lost, nothing is wrongly kept.

The nodes are processes with the real source, roster and plans; their kernels are logs (fleet_kernel). Every publication
gives a key an address that no other publication has, so a log tells when each was in force.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jetplane.lab.waiting import patience
from jetplane.model import InnerAddress, PublicKey
from tests.netns.fleet_kernel import Log
from tests.netns.nats_server import ControlPlane, Server

NODES = 24
KEYS = 200  # to begin with
CALM = 120  # publications and revocations that are timed
ROUNDS = 15  # of chaos
PATIENCE_S = patience(90.0)

pytestmark = pytest.mark.timeout(180)


class Fleet:
    """The nodes, and what the control plane has told them."""

    def __init__(self, directory: Path, plane: ControlPlane, nursery: subprocess.Popen[str]) -> None:
        self._directory, self._plane, self._nursery = directory, plane, nursery
        self.names = [f"node{number}" for number in range(NODES)]
        self.logs = {name: Log(directory / f"{name}.log") for name in self.names}
        self.pids: dict[str, int] = {}
        self.wanted: dict[str, str] = {}  # key → address, as kernels name them
        self.published: dict[str, int] = {}  # address → when
        self.revoked: dict[str, int] = {}  # key → when
        self.seconds: list[float] = []  # from each publication to its being in force, node by node
        self._numbers = iter(range(2, 1 << 22))
        self.timing = False

    def start(self, name: str) -> None:
        """Start a node, or start it again on its kernel."""
        assert self._nursery.stdin
        assert self._nursery.stdout
        self._nursery.stdin.write(f"{name}\n")
        self._nursery.stdin.flush()
        self.pids[name] = int(self._nursery.stdout.readline())

    def kill(self, name: str) -> None:
        """Wherever it is in its work."""
        os.kill(self.pids.pop(name), signal.SIGKILL)

    def publish(self, key: PublicKey) -> None:
        """Give a key an address that nobody had."""
        number = next(self._numbers)
        text = f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        address = InnerAddress.parse(text).hex()
        self.published[address] = time.monotonic_ns()
        self._plane.put(key, {"allowed_ips": [text]})
        self.wanted[key.hex()] = address

    def exchange(self, one: PublicKey, other: PublicKey) -> None:
        """Give `one` the address that `other` has, which leaves: in the wrong order first, as a careless writer may."""
        address = InnerAddress.fromhex(self.wanted[other.hex()])
        self._plane.put(one, {"allowed_ips": [address.text()]})
        self.wanted[one.hex()] = address.hex()
        self.revoke(other)

    def revoke(self, key: PublicKey) -> None:
        """Delete a key."""
        self.revoked[key.hex()] = time.monotonic_ns()
        self._plane.revoke(key)
        del self.wanted[key.hex()]

    def forget_markers(self) -> None:
        """Remove what tells of deletions, while nodes are still on their way back to the server."""
        self._plane.forget_markers()

    def follow(self) -> None:
        """Read the kernels' logs along, which checks every step."""
        for log in self.logs.values():
            for at, what, arguments in log.read():
                if not self.timing:
                    continue
                if what == "give":
                    for address in arguments[1][0]:
                        self.seconds.append((at - self.published[address]) / 1e9)
                elif what == "remove" and arguments[0] in self.revoked:
                    self.seconds.append((at - self.revoked[arguments[0]]) / 1e9)

    def until_converged(self) -> None:
        """Wait until every node has exactly what is wanted, and the control plane has been told so."""
        deadline = time.monotonic() + PATIENCE_S
        revision = self._plane.revision()
        while wrong := self._wrong(revision):
            assert time.monotonic() < deadline, "; ".join(wrong)
            time.sleep(0.05)

    def _wrong(self, revision: int) -> list[str]:
        self.follow()
        for name, pid in self.pids.items():
            assert Path(f"/proc/{pid}").exists(), f"{name} has died by itself"
        wrong = []
        for name in self.names:
            state = self.logs[name].state
            lost = sum(state.peers.get(key) != {address} for key, address in self.wanted.items())
            kept = len(state.peers.keys() - self.wanted.keys())
            entries = state.index.keys() ^ set(self.wanted.values())
            if lost or kept or entries:
                wrong.append(f"{name}: {lost} lost, {kept} wrongly kept, {len(entries)} entries differ")
        if wrong:
            return wrong
        told = {name: answer["revision"] for name, answer in self._plane.acknowledged().items()}
        return [
            f"{name}: acknowledges {told.get(name)}, not {revision}"
            for name in self.names
            if told.get(name) != revision
        ]


@contextmanager
def _nursery(directory: Path, server: Server) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.netns.fleet_nursery", str(directory), server.url]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            yield process
        finally:
            assert process.stdin
            process.stdin.close()  # it ends its nodes and itself


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[Fleet, Server]]:
    with Server(tmp_path / "nats") as server, ControlPlane(server.url) as plane, _nursery(tmp_path, server) as nursery:
        plane.make_buckets()
        yield Fleet(tmp_path, plane, nursery), server


def test_a_fleet_converges_whoever_dies(fleet: tuple[Fleet, Server], capsys: pytest.CaptureFixture[str]) -> None:
    nodes, server = fleet
    chance = random.Random(4711)
    for number in range(KEYS):
        nodes.publish(PublicKey(number.to_bytes(32)))
    for name in nodes.names:
        nodes.start(name)
    nodes.until_converged()

    nodes.timing = True
    for number in range(CALM):
        key = PublicKey(number.to_bytes(32))
        nodes.publish(key) if number % 3 else nodes.revoke(key)
        nodes.follow()
    nodes.until_converged()
    nodes.timing = False
    told = len(nodes.seconds)
    assert told >= CALM * NODES

    down: list[str] = []
    fresh = iter(range(KEYS, 1 << 20))
    for number in range(ROUNDS):
        match number % 5:
            case 0:
                server.stop(signal.SIGKILL)
                server.start()
            case 2:
                server.stop()
                server.start()
                for key in chance.sample(sorted(nodes.wanted), 2):
                    nodes.revoke(PublicKey.fromhex(key))
                nodes.forget_markers()
        for name in down:
            nodes.start(name)
        down = chance.sample(nodes.names, NODES // 4)
        for name in down:
            nodes.kill(name)
        for _ in range(8):
            keys = [PublicKey.fromhex(key) for key in chance.sample(sorted(nodes.wanted), 3)]
            nodes.publish(PublicKey(next(fresh).to_bytes(32)))
            nodes.publish(keys[0])
            nodes.exchange(keys[1], keys[2])
        nodes.follow()
    for name in down:
        nodes.start(name)
    began = time.monotonic()
    nodes.until_converged()
    caught_up = time.monotonic() - began

    cuts = statistics.quantiles(nodes.seconds, n=100)
    with capsys.disabled():
        print(
            f"\nfleet of {NODES}: publish to in force p50 {cuts[49] * 1e3:.0f} ms, p99 {cuts[98] * 1e3:.0f} ms"
            f" ({told} samples); after the last restart all converged in {caught_up:.1f} s"
        )
