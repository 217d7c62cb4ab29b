"""How many peers made a handshake lately, in both forms of a dump, and when is looked."""

from __future__ import annotations

import errno
import os
import selectors
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import jetplane
from jetplane.errors import BackendError, JetplaneError
from jetplane.lab.waiting import patience
from jetplane.metrics.epochs import Clocks, Opening
from jetplane.release import looks
from jetplane.release.looks import Looks
from jetplane.wireguard.attributes import DEVICE_PEERS, NESTED, PEER_LAST_HANDSHAKE, PEER_PUBLIC_KEY, attribute
from jetplane.wireguard.handshakes import of_kernel, of_userspace, recent

NOW = 1_800_000_000
KEYS = [bytes([n]) * 32 for n in range(1, 7)]
AGES = (1, 119, 120, 3_600, -60, -3_600)
TIMES = [*zip(KEYS, (NOW - age for age in AGES), strict=True), (bytes(32), 0)]
RECENT = {KEYS[0], KEYS[1], KEYS[4]}


def netlink(times: Iterable[tuple[bytes, int]]) -> list[memoryview]:
    messages = []
    for key, at in times:
        body = attribute(PEER_PUBLIC_KEY, key)
        messages.append(body + attribute(PEER_LAST_HANDSHAKE, struct.pack("=qq", at, 999)) if at else body)
    return [memoryview(attribute(DEVICE_PEERS | NESTED, attribute(NESTED, body))) for body in messages]


def lines(times: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
    for key, at in times:
        yield b"public_key=" + key.hex().encode() + b"\n"
        yield b"last_handshake_time_sec=%d\n" % at
    yield b"errno=0\n"


def test_both_dumps_tell_the_same_peers() -> None:
    assert list(of_kernel(netlink(TIMES))) == list(of_userspace(lines(TIMES))) == TIMES


def test_a_handshake_counts_within_its_window_and_of_nobody_who_objects() -> None:
    assert recent(iter(TIMES), now=NOW, window=120, without=frozenset()) == RECENT
    assert recent(iter(TIMES), now=NOW, window=120, without=frozenset(KEYS[:1])) == RECENT - {KEYS[0]}


def test_no_answer_is_no_count() -> None:
    with pytest.raises(ValueError, match="without errno"):
        list(of_userspace([b"public_key=00\n"]))
    with pytest.raises(OSError) as caught:
        list(of_userspace([b"errno=-1\n"]))
    assert caught.value.errno == errno.EPERM
    bad = attribute(NESTED, attribute(PEER_LAST_HANDSHAKE, b"\1\2"))
    with pytest.raises(ValueError, match="wrong size"):
        list(of_kernel([memoryview(attribute(DEVICE_PEERS | NESTED, bad))]))


def test_the_process_that_counts_says_a_number_and_nothing_else() -> None:
    command = [sys.executable, "-S", "-P", "-m", "jetplane.wireguard.handshakes", "userspace", "120", "nosuch"]
    environment = {"PYTHONPATH": str(Path(jetplane.__file__).parents[1])}
    done = subprocess.run(command, env=environment, input=KEYS[0], capture_output=True, check=True)
    assert int(done.stdout) == -errno.ENOENT
    assert done.stderr == b""


OPENING = Opening(7, NOW, 3_600, Clocks(NOW, 0))


class Watch:
    """Looks with a clock and a child of the test's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, script: str, kind: str = "kernel") -> None:
        self.now, self.script = float(NOW), script
        self.entered: list[tuple[int, int, int]] = []
        self.failures: list[str] = []
        self.told: list[tuple[tuple[str, ...], bytes]] = []
        self.selector = selectors.DefaultSelector()
        self.looks = Looks(kind, self.selector, self._fail)
        monkeypatch.setattr(looks.time, "time", lambda: self.now)
        monkeypatch.setattr(looks, "start", self._start)

    def _fail(self, error: JetplaneError) -> None:
        assert isinstance(error, BackendError)
        self.failures.append(str(error))

    def _start(self, module: str, *arguments: str, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        self.told.append((arguments, os.pread(stdin, 1000, 0)))
        return subprocess.Popen([sys.executable, "-S", "-c", self.script], stdin=subprocess.DEVNULL, stdout=stdout)

    def at(self, second: float) -> float:
        self.now = NOW + second
        wait = self.looks.follow(OPENING, ["jet0", "jet1"], lambda: KEYS[0] + KEYS[1], self._enter)
        while self.selector.get_map():
            ready = self.selector.select(patience(30))
            assert ready
            for key, _ in ready:
                key.data()
        return wait

    def _enter(self, *look: int) -> None:
        self.entered.append(look)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Watch]:
    return lambda script="print(3)", kind="kernel": Watch(monkeypatch, script, kind)


def test_each_slot_has_one_look_shortly_before_its_end(watch: Callable[..., Watch]) -> None:
    one, slot = watch(), NOW // 120
    assert one.at(0) == 115
    assert one.at(114) == 1
    assert one.entered == []
    assert one.at(115) == 120
    assert one.at(118) == 117
    assert one.at(240) == 115
    one.at(359)
    assert one.entered == [(7, slot, 3), (7, slot + 2, 3)]
    assert one.told[0] == (("kernel", "120.0", "jet0", "jet1"), KEYS[0] + KEYS[1])


FAILURES = (
    ("print(-1)", "looking at handshakes: Operation not permitted"),
    ("print(-13)", "looking at handshakes: Permission denied"),
    ("raise SystemExit(1)", "looking at handshakes: its process ended with status 1"),
)


@pytest.mark.parametrize(("script", "says"), FAILURES)
def test_a_look_that_fails_is_told_and_enters_nothing(watch: Callable[..., Watch], script: str, says: str) -> None:
    one = watch(script)
    one.at(116)
    assert (one.entered, one.failures) == ([], [says])


def test_a_look_that_cannot_be_started_is_told(watch: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    one = watch()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(looks, "start", refuse)
    one.at(116)
    assert one.failures == ["looking at handshakes: no more processes"]


def test_without_wireguard_there_is_nothing_to_look_at(watch: Callable[..., Watch]) -> None:
    one = watch(kind="veth")
    assert one.at(116) == 3_600
    assert one.told == []


def test_a_look_under_way_ends_with_the_controller(watch: Callable[..., Watch]) -> None:
    one = watch("input()")
    one.now = NOW + 116
    one.looks.follow(OPENING, ["jet0"], lambda: b"", one._enter)
    assert one.looks._child is not None
    process = one.looks._child[0]
    one.looks.close()
    assert process.returncode is not None and not one.selector.get_map()
