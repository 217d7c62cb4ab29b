"""The release step, killed wherever it can be: nothing is ever released twice with two noises, and no sum leaves it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

import jetplane
from jetplane.errors import JetplaneError
from jetplane.metrics import ledger, noise, released
from jetplane.metrics.ledger import NotReleased
from jetplane.release.step import Task, release

CLIPS = noise.clips(volume_epoch_s=86_400, up_bytes=1_000, down_bytes=2_000)
SUM = 987_654_321
"""A figure without noise: it must not be seen anywhere."""


def task(directory: Path) -> Task:
    return Task(
        run_directory=str(directory),
        epoch="volume",
        number=7,
        start=86_400 * 20_000,
        length=86_400,
        clips=CLIPS,
        left_out=(),
        limit=str(noise.daily_rho()),
    )


class Maps:
    """The sums as the kernel holds them; `reach` is told of each place that the step comes by."""

    def __init__(self, reach: Callable[[str], None] = lambda _: None, running: int = 8) -> None:
        self.reach, self.running, self.cleared = reach, running, 0

    def number(self, epoch: str) -> int:
        self.reach("number")
        return self.running

    def sums(self, epoch: str, number: int) -> dict[str, int]:
        self.reach("sums")
        names = (name for name, quantity in noise.QUANTITIES.items() if quantity.epoch == epoch)
        return dict.fromkeys(names, SUM)

    def clear(self, epoch: str, number: int) -> None:
        self.reach("clear")
        self.cleared += 1


def plus(amount: int) -> Callable[..., int]:
    return lambda value, **_: value + amount


def test_a_release_is_entered_drawn_shown_and_its_sums_are_forgotten(tmp_path: Path) -> None:
    drawn: list[tuple[int, int]] = []

    def draw(value: int, *, sigma: int, clip: int) -> int:
        drawn.append((sigma, clip))
        return value + 1

    maps = Maps()
    release(task(tmp_path), maps, draw)
    told = released.load(tmp_path / released.FILE)["volume"]
    assert set(told.figures.values()) == {SUM + 1}
    assert told.figures.keys() == {n for n, q in noise.QUANTITIES.items() if q.epoch == "volume"}
    assert (told.end, told.clips) == (86_400 * 20_001, CLIPS)
    assert (16_000, 1_000) in drawn and (36, 1) in drawn and (26 * 720, 720) in drawn
    spent = ledger.load(tmp_path / ledger.FILE)
    assert spent.spent_on(20_000) == noise.release_rho("volume")
    assert maps.cleared == 1
    release(replace(task(tmp_path), epoch="active", left_out=()), Maps(), draw)
    assert released.load(tmp_path / released.FILE).keys() == {"active", "volume"}


def test_a_second_release_is_refused_before_anything_is_looked_at(tmp_path: Path) -> None:
    release(task(tmp_path), Maps(), plus(1))
    before = (tmp_path / released.FILE).read_bytes()
    reached: list[str] = []
    with pytest.raises(NotReleased, match="not released again"):
        release(task(tmp_path), Maps(reached.append), plus(2))
    assert reached == ["number"]
    assert (tmp_path / released.FILE).read_bytes() == before


def test_a_figure_that_the_node_cannot_have_is_left_out(tmp_path: Path) -> None:
    release(replace(task(tmp_path), left_out=("handshakes",)), Maps(), plus(1))
    assert "handshakes" not in released.load(tmp_path / released.FILE)["volume"].figures


@pytest.mark.parametrize("running", [7, 9, 10, 0])
def test_when_the_kernel_counts_another_epoch_nothing_is_spent(tmp_path: Path, running: int) -> None:
    with pytest.raises(NotReleased, match="counts another one"):
        release(task(tmp_path), Maps(running=running), plus(1))
    assert list(tmp_path.iterdir()) == []


def test_a_day_that_is_spent_releases_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotReleased, match="privacy budget"):
        release(replace(task(tmp_path), limit=str(Fraction(1, 10**6))), Maps(), plus(1))
    assert not (tmp_path / released.FILE).exists()


def test_noise_that_cannot_be_drawn_skips_the_epoch_for_good(tmp_path: Path) -> None:
    def fails(value: int, *, sigma: int, clip: int) -> int:
        raise NotReleased("no noise")

    with pytest.raises(NotReleased, match="no noise"):
        release(task(tmp_path), Maps(), fails)
    with pytest.raises(NotReleased, match="not released again"):
        release(task(tmp_path), Maps(), plus(1))


def test_released_figures_that_cannot_be_read_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / released.FILE
    for text in ("", "[]", '{"active": {}}', '{"active": {"start": 1, "length": 2, "clips": {}, "figures": {"x": 1}}}'):
        file.write_text(text)
        with pytest.raises(JetplaneError, match="holds no released figures"):
            released.load(file)
    release(task(tmp_path), Maps(), plus(1))
    assert released.load(file).keys() == {"volume"}


def test_released_figures_that_cannot_be_written_skip_the_epoch(tmp_path: Path) -> None:
    (tmp_path / released.FILE).mkdir()
    with pytest.raises(JetplaneError, match="cannot be read"):
        released.load(tmp_path / released.FILE)
    with pytest.raises(NotReleased, match="cannot be written"):
        release(task(tmp_path), Maps(), plus(1))


KILLED_AT = ("number", "replace 1", "sums", "draw 1", "draw 3", "draw 5", "replace 2", "clear")
"""Places in the order in which they are come by; at a replace, the file is written and not yet in its place."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("place", KILLED_AT)
def test_killed_at(tmp_path: Path, place: str, after: bool) -> None:
    """Whatever the first step came to, a second one tells either the same or nothing."""
    if (child := os.fork()) == 0:
        _die(tmp_path, place, after=after)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    first = released.load(tmp_path / released.FILE).get("volume")
    try:
        release(task(tmp_path), Maps(), plus(2))
        again = True
    except NotReleased:
        again = False
    second = released.load(tmp_path / released.FILE).get("volume")
    assert not (first and again), "released twice"
    if first:
        assert second == first
    if KILLED_AT.index(place) > KILLED_AT.index("replace 1"):
        assert not again, "the sums had been looked at"
    assert ledger.load(tmp_path / ledger.FILE).spent_on(20_000) == noise.release_rho("volume")


def _die(directory: Path, place: str, *, after: bool) -> None:
    """Run the step in this process and kill it at a place, before or after what happens there."""
    counts: dict[str, int] = {}
    real = Path.replace

    def reach(name: str) -> None:
        if name == place:
            os.kill(os.getpid(), signal.SIGKILL)

    def numbered(name: str) -> str:
        counts[name] = counts.get(name, 0) + 1
        return f"{name} {counts[name]}"

    def moved(path: Path, target: Path) -> Path:
        name = numbered("replace")
        if not after:
            reach(name)
        done = real(path, target)
        reach(name)
        return done

    def draw(value: int, *, sigma: int, clip: int) -> int:
        reach(numbered("draw"))
        return value + 1

    class Dying(Maps):
        def clear(self, epoch: str, number: int) -> None:
            if not after:
                reach("clear")
            super().clear(epoch, number)

    try:
        Path.replace = moved  # type: ignore[method-assign, assignment]
        release(task(directory), Dying(reach), draw)
    finally:
        os._exit(3)


def test_the_process_says_no_figure_when_it_fails_and_none_when_it_does_not(tmp_path: Path) -> None:
    """There is no data plane here, and no way to start one with this directory."""
    told = json.dumps({**{f: getattr(task(tmp_path), f) for f in Task.__dataclass_fields__}, "parent": os.getpid()})
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jetplane.release.step"],
        input=told.encode(),
        env={"PYTHONPATH": str(Path(jetplane.__file__).parents[1])},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == {
        "failed": "no data plane is loaded",
        "hint": "start it: jetplane run",
        "errno": 0,
    }
    assert done.stderr == b""
