"""Epochs kept on real maps by a clock of the test's own, and released by the real step with real noise."""

from __future__ import annotations

import json
import os
import selectors
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jetplane.config import Config
from jetplane.dataplane import bpf
from jetplane.dataplane.maps import possible_cpus
from jetplane.dataplane.node import DataPlane
from jetplane.health import Health
from jetplane.lab.waiting import patience
from jetplane.metrics import ledger, noise, released
from jetplane.metrics.epochs import Clocks
from jetplane.release import keeper as keeping
from jetplane.release import openings, telling, terms
from jetplane.release.keeper import Keeper
from tests.bpf.dataplane.conftest import ConfigFactory

HOUR = 3_600
MIDNIGHT = 86_400 * 20_000
TEN_O_CLOCK = MIDNIGHT + 10 * HOUR
ACTIVE = 250_000
"""As many active peers as no noise hides."""


class Bench:
    """A data plane, the keeper of its epochs, and the clocks that it looks at."""

    def __init__(self, config: Config, dataplane: DataPlane) -> None:
        self.config, self.dataplane = config, dataplane
        self.clocks = Clocks(TEN_O_CLOCK - 1_800, 50_000.0)
        self.health = Health()
        self.told = 0
        self.restart()

    def restart(self) -> None:
        """A new controller, which knows what stands in the run directory."""
        self.selector = selectors.DefaultSelector()
        self.keeper = Keeper(self.config, self.selector, lambda *_: None, self.health, self._tell)

    def _tell(self) -> None:
        self.told += 1

    def pass_to(self, wall: float, *, stepped: float = 0.0) -> float:
        """Let time pass until the clock shows this, having been set by `stepped` in between; look."""
        passed = wall - stepped - self.clocks.wall
        self.clocks = Clocks(wall, self.clocks.boot + passed)
        return self.look()

    def look(self) -> float:
        return self.keeper.look(self.dataplane.statistics)

    def count(self, active: int) -> None:
        """Put so many active peers into the running epoch, as the data path would."""
        statistics = self.dataplane.statistics
        key = statistics.number("active") % 2  # ACTIVE_PEERS is the first quantity
        value = active.to_bytes(8, "little") + bytes(8 * (possible_cpus() - 1))
        bpf.update(self.dataplane._map("aggregates").fd, key.to_bytes(4, "little"), value)

    def finish(self) -> None:
        """Wait for the step that is under way."""
        assert self.selector.get_map(), "no step is under way"
        while self.selector.get_map():
            ready = self.selector.select(patience(60))
            assert ready, "the step does not end"
            for key, _ in ready:
                key.data()

    @property
    def stepping(self) -> bool:
        return bool(self.selector.get_map())

    @property
    def release(self) -> released.Release | None:
        return released.load(self.config.run_directory / released.FILE).get("active")

    @property
    def file(self) -> Path:
        return self.config.run_directory / openings.FILE


@pytest.fixture
def bench(namespace: None, sources: Path, configure: ConfigFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    config = configure(metrics={"design_peers": 1000})
    dataplane = DataPlane(config)
    dataplane.ensure()
    for name in (openings.FILE, ledger.FILE, released.FILE):
        (config.run_directory / name).unlink(missing_ok=True)
    made = Bench(config, dataplane)
    monkeypatch.setattr(Clocks, "now", lambda: made.clocks)
    yield made
    made.keeper.close()
    dataplane.close()


def opened_at_ten(bench: Bench) -> None:
    """The node started at half past nine; that epoch is not whole."""
    bench.look()
    bench.pass_to(TEN_O_CLOCK)
    assert not bench.stepping
    assert bench.keeper.skipped == {"active": 1}


def test_a_whole_epoch_is_released_with_noise_and_its_sum_is_forgotten(bench: Bench) -> None:
    opened_at_ten(bench)
    number = bench.dataplane.statistics.number("active")
    bench.count(ACTIVE)
    assert bench.pass_to(TEN_O_CLOCK + 1_800) == keeping.MOST_WAIT_S
    assert not bench.stepping
    bench.pass_to(TEN_O_CLOCK + HOUR + 0.5)
    bench.finish()
    assert bench.release is not None and bench.told == 1
    assert bench.release.start == TEN_O_CLOCK
    assert abs(bench.release.figures["active_peers"] - ACTIVE) < 9 * 36
    assert bench.dataplane.statistics.sums("active", number) == {"active_peers": 0}
    spent = ledger.load(bench.config.run_directory / ledger.FILE)
    assert spent.spent_on(20_000) == noise.release_rho("active")
    assert bench.dataplane.statistics.number("active") == number + 1
    assert bench.keeper.skipped == {"active": 1}
    files = [bench.config.run_directory / name for name in (openings.FILE, ledger.FILE, released.FILE)]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    told = telling.planning(bench.config, bench.keeper.skipped)
    assert told is not None and told.figures == bench.release.figures
    assert told.released_until == {"active": TEN_O_CLOCK + HOUR}


def test_the_looks_come_in_time_for_the_end(bench: Bench) -> None:
    bench.look()
    assert bench.pass_to(TEN_O_CLOCK - 3) == pytest.approx(3)


def test_a_restart_in_the_middle_keeps_the_epoch_whole(bench: Bench) -> None:
    opened_at_ten(bench)
    bench.count(ACTIVE)
    bench.restart()
    bench.pass_to(TEN_O_CLOCK + 1_800)
    bench.restart()
    bench.pass_to(TEN_O_CLOCK + HOUR)
    bench.finish()
    assert bench.release is not None
    assert abs(bench.release.figures["active_peers"] - ACTIVE) < 9 * 36
    assert not bench.keeper.skipped


def lose_the_file(bench: Bench) -> None:
    bench.file.unlink()


def spoil_the_file(bench: Bench) -> None:
    bench.file.write_text("{")


def turn_behind_its_back(bench: Bench) -> None:
    bench.dataplane.statistics.turn("active", bench.dataplane.statistics.number("active") + 1)


def lose_the_maps(bench: Bench) -> None:
    bench.dataplane.detach()
    bench.dataplane.ensure()


def change_the_clip(bench: Bench) -> None:
    tree = json.loads(bench.file.read_text())
    tree["clips"]["up_bytes"] += 1
    bench.file.write_text(json.dumps(tree))


def boot_anew(bench: Bench) -> None:
    tree = json.loads(bench.file.read_text())
    tree["boot"] = "another"
    bench.file.write_text(json.dumps(tree))


LOSSES = (lose_the_file, spoil_the_file, turn_behind_its_back, lose_the_maps, change_the_clip, boot_anew)


@pytest.mark.parametrize("lose", LOSSES, ids=[loss.__name__ for loss in LOSSES])
def test_an_epoch_of_which_something_was_lost_is_skipped(bench: Bench, lose: Callable[[Bench], None]) -> None:
    opened_at_ten(bench)
    number = bench.dataplane.statistics.number("active")
    lose(bench)
    bench.restart()
    bench.pass_to(TEN_O_CLOCK + 1_800)
    bench.pass_to(TEN_O_CLOCK + HOUR)
    assert not bench.stepping and bench.release is None
    assert lose is lose_the_maps or bench.dataplane.statistics.number("active") > number
    bench.pass_to(TEN_O_CLOCK + 2 * HOUR)
    bench.finish()
    assert bench.release is not None and bench.release.start == TEN_O_CLOCK + HOUR


CLOCKS = (
    ("set forward by a minute", TEN_O_CLOCK + 1_800, 60.0),
    ("set back by a minute", TEN_O_CLOCK + 1_800, -60.0),
    ("set forward by three hours", TEN_O_CLOCK + 3 * HOUR + 1_800, 3 * HOUR),
    ("set back into the last epoch", TEN_O_CLOCK - 600, -2_400.0),
    ("suspended until after the end", TEN_O_CLOCK + HOUR + 60, 0.0),
)


@pytest.mark.parametrize(("wall", "stepped"), [row[1:] for row in CLOCKS], ids=[row[0] for row in CLOCKS])
def test_an_epoch_under_a_clock(bench: Bench, wall: float, stepped: float) -> None:
    opened_at_ten(bench)
    bench.pass_to(wall, stepped=stepped)
    end = (int(wall // HOUR) + 1) * HOUR
    bench.pass_to(end)
    assert not bench.stepping and bench.release is None
    bench.pass_to(end + HOUR)
    if bench.stepping:
        bench.finish()
    assert bench.release is not None and bench.release.start == end


def test_time_that_was_released_is_not_released_again_when_the_clock_goes_back(bench: Bench) -> None:
    opened_at_ten(bench)
    bench.pass_to(TEN_O_CLOCK + HOUR)
    bench.finish()
    first = bench.release
    bench.pass_to(TEN_O_CLOCK - 1, stepped=-HOUR - 2)
    bench.pass_to(TEN_O_CLOCK)
    bench.count(ACTIVE)
    bench.pass_to(TEN_O_CLOCK + HOUR)  # by its clocks, whole
    bench.finish()
    assert bench.release == first
    assert "not released again" in bench.health.stands("release")
    bench.pass_to(TEN_O_CLOCK + 2 * HOUR)
    bench.finish()
    assert bench.release != first
    assert not bench.health.stands("release")


def test_killed_in_the_step_the_epoch_is_lost_and_the_next_one_is_not(bench: Bench) -> None:
    opened_at_ten(bench)
    bench.pass_to(TEN_O_CLOCK + HOUR)
    assert bench.keeper._step is not None
    os.kill(bench.keeper._step[2].pid, signal.SIGKILL)
    bench.finish()
    assert bench.release is None and bench.keeper.skipped == {"active": 2}
    assert "ended with status -9" in bench.health.stands("release")
    bench.pass_to(TEN_O_CLOCK + 2 * HOUR)
    bench.finish()
    assert bench.release is not None and bench.release.start == TEN_O_CLOCK + HOUR


def test_a_step_that_takes_longer_than_an_epoch_gives_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_at_ten(bench)
    with monkeypatch.context() as patched:
        patched.setattr(keeping, "_begin", lambda _: sleeper())
        bench.pass_to(TEN_O_CLOCK + HOUR)
        assert bench.stepping
        bench.pass_to(TEN_O_CLOCK + 2 * HOUR)
    assert bench.keeper.skipped == {"active": 2}
    bench.keeper._give_up()
    bench.finish()
    assert bench.keeper.skipped == {"active": 3} and bench.release is None


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_step_that_cannot_be_started_skips_its_epoch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_at_ten(bench)

    def refuse(_: object) -> None:
        raise OSError(11, "no more processes")

    monkeypatch.setattr(keeping, "_begin", refuse)
    bench.pass_to(TEN_O_CLOCK + HOUR)
    assert bench.keeper.skipped == {"active": 2}


def test_a_ledger_that_cannot_be_understood_stops_releases_and_is_told(bench: Bench) -> None:
    opened_at_ten(bench)
    (bench.config.run_directory / ledger.FILE).write_text("{")
    bench.pass_to(TEN_O_CLOCK + HOUR)
    bench.finish()
    assert bench.release is None
    assert "is no ledger" in bench.health.stands("release")
    told = telling.planning(bench.config, bench.keeper.skipped)
    assert told is not None and not told.ledger_ok


def test_a_day_of_volume_lacks_nothing_only_with_its_looks_at_handshakes(bench: Bench) -> None:
    bench.clocks = Clocks(MIDNIGHT - 10.0, 50_000.0)
    bench.look()
    bench.pass_to(MIDNIGHT)
    statistics, number = bench.dataplane.statistics, bench.dataplane.statistics.number("volume")
    for slot in range(712):
        statistics.add_handshakes(number, MIDNIGHT // 120 + slot, 5)
    day = bench.keeper._open["volume"]
    assert bench.keeper._lacks_looks("volume", day, statistics) == "only 712 of 720 looks at handshakes were made"
    statistics.add_handshakes(number, MIDNIGHT // 120 + 719, 5)
    assert bench.keeper._lacks_looks("volume", day, statistics) == ""


def test_figures_made_on_other_terms_are_not_told(bench: Bench, configure: ConfigFactory) -> None:
    opened_at_ten(bench)
    bench.pass_to(TEN_O_CLOCK + HOUR)
    bench.finish()
    for changes in ({"up_clip_mb": 1}, {"active_epoch": 1_800}):
        other = configure(metrics={"design_peers": 1000, **changes})
        told = telling.planning(other, {})
        assert told is not None and told.figures == {} and told.released_until == {}
    assert telling.planning(configure(), {}) is None
    bench.config.run_directory.joinpath(released.FILE).write_text("{")
    told = telling.planning(bench.config, {})
    assert told is not None and told.figures == {}


def test_what_a_day_costs_is_the_promise_or_openly_more(configure: ConfigFactory) -> None:
    assert terms.keeps_the_promise(configure(metrics={"design_peers": 1000}))
    lab = configure(metrics={"design_peers": 1000, "active_epoch": 10, "volume_epoch": 10})
    assert not terms.keeps_the_promise(lab)
    assert terms.limit(lab) == terms.daily_rho(lab) > noise.daily_rho()
    assert "handshakes" not in terms.sigmas(configure(transport="veth", metrics={"design_peers": 1}))
