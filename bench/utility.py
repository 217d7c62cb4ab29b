"""`python -m bench.utility`: what the released figures are worth. Writes bench/results/utility.{json,md,svg}.

Simulated days of traffic; everything after that is real: each epoch goes through the release step, its ledger and
its noise, exactly as on a node. Needs no root.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import command, population, results
from bench.population import Day
from bench.results import Row
from jetplane.capacity import forecast
from jetplane.capacity.outlook import BUSY_HOURS, busy
from jetplane.config import Metrics
from jetplane.metrics import noise, released
from jetplane.metrics.epochs import NUMBERS
from jetplane.metrics.noise import QUANTITIES, EpochName
from jetplane.release.step import Task, release

SIZES = (100, 1_000, 10_000)
DAYS = 28
GROWTH = 0.01
"""Of the first day's subscribers, each day."""
_HEADROOM = 1.75
"""A node's capacity, beside the busiest day's truth so far: reached some fifteen weeks after the last day."""
_WITHIN = 1.959964
"""Standard deviations on either side: 95 % of a normal distribution."""
_FIRST_DAY = 20_454 * noise.DAY_S  # 2026-01-01
_FLEET = 100
"""Nodes of the smallest size, whose sum is looked at: that is what a small node's figures are for."""

CLIPS = noise.clips(
    volume_epoch_s=noise.EPOCHS["volume"],
    up_bytes=Metrics().up_clip_mb * 1_000_000,
    down_bytes=Metrics().down_clip_mb * 1_000_000,
)


@dataclass(slots=True)
class _Kernel:
    """Sums of an epoch that has just ended, in the place of the data plane's maps."""

    ended: int
    values: Mapping[str, int]

    def number(self, _: EpochName) -> int:
        return (self.ended + 1) % NUMBERS

    def sums(self, _: EpochName, __: int) -> dict[str, int]:
        return dict(self.values)

    def clear(self, _: EpochName, __: int) -> None:
        self.values = {}


@dataclass(frozen=True, slots=True)
class Told:
    """A day as it was released."""

    active: tuple[int, ...]
    sums: Mapping[str, int]


class Node:
    """Releases one day after the other into a run directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0

    def tell(self, day: int, truth: Day) -> Told:
        """Every figure of a day, by the real release step. Raises JetplaneError, as the step does."""
        start = _FIRST_DAY + day * noise.DAY_S
        active = tuple(
            self._release("active", start + hour * 3600, {"active_peers": n})["active_peers"]
            for hour, n in enumerate(truth.active)
        )
        return Told(active, self._release("volume", start, truth.sums))

    def _release(self, epoch: EpochName, start: int, values: Mapping[str, int]) -> Mapping[str, int]:
        self._number += 1
        task = Task(
            run_directory=str(self._directory),
            epoch=epoch,
            number=self._number,
            start=start,
            length=noise.EPOCHS[epoch],
            clips=CLIPS,
            left_out=(),
            limit=str(Fraction(noise.daily_rho())),
        )
        release(task, _Kernel(self._number, values))
        return released.load(self._directory / released.FILE)[epoch].figures


@dataclass(frozen=True, slots=True)
class Course:
    """A node's days, and what was told of them."""

    peers: int
    truth: tuple[Day, ...]
    told: tuple[Told, ...]

    def pairs(self, name: str) -> list[tuple[int, int]]:
        """(truth, released), of every release of a quantity."""
        if name == "active_peers":
            return [
                p
                for day, told in zip(self.truth, self.told, strict=True)
                for p in zip(day.active, told.active, strict=True)
            ]
        return [(day.sums[name], told.sums[name]) for day, told in zip(self.truth, self.told, strict=True)]


def course(peers: int, days: int, seed: int) -> Course:
    """Simulate a node, release its days."""
    truth = tuple(population.days(peers, days, growth=GROWTH, clips=CLIPS, seed=seed))
    with TemporaryDirectory(prefix="jetplane-bench", dir="/dev/shm") as directory:
        node = Node(Path(directory))
        return Course(peers, truth, tuple(node.tell(number, day) for number, day in enumerate(truth)))


def errors(runs: Sequence[Course]) -> Iterator[Row]:
    """How far each figure is from the truth, and how often the truth lies in the interval that is promised."""
    size = f"{runs[0].peers:,} peers"
    inside, count = 0, 0
    for name, quantity in QUANTITIES.items():
        pairs, sigma = [pair for run in runs for pair in run.pairs(name)], quantity.sigma(CLIPS[name])
        inside += sum(abs(told - truth) <= _WITHIN * sigma for truth, told in pairs)
        count += len(pairs)
        yield results.alone(size, f"{name}: error", "% of the mean", _in_percent_of_the_mean(pairs))
    yield results.alone(size, f"truth within the 95 % interval, {count:,} releases", "%", [100 * inside / count])
    for name in ("up_bytes", "down_bytes"):
        hidden = [100 * (1 - day.sums[name] / day.unclipped[name]) for run in runs for day in run.truth]
        yield results.alone(size, f"{name}: beyond the clip, not counted", "%", hidden)


def _in_percent_of_the_mean(pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Errors of (truth, released); all zero when there is nothing to compare with."""
    mean = sum(truth for truth, _ in pairs) / len(pairs)
    return [100 * abs(told - truth) / mean if mean else 0.0 for truth, told in pairs]


def fleet(seed: int) -> Iterator[Row]:
    """One day of many small nodes, summed as the recording rules sum them: noise grows by the root of their number."""
    runs = [course(SIZES[0], 1, seed + number) for number in range(_FLEET)]
    size = f"{_FLEET} nodes of {SIZES[0]} peers"
    for name in QUANTITIES:
        moments = zip(*(run.pairs(name) for run in runs), strict=True)
        sums = [(sum(truth for truth, _ in moment), sum(told for _, told in moment)) for moment in moments]
        yield results.alone(size, f"{name}: error of the sum", "% of the mean", _in_percent_of_the_mean(sums))


def forecasts(runs: Sequence[Course]) -> Iterator[Row]:
    """Days until full by the released figures beside those by the truth: what `jetplane capacity` makes of both."""
    size = f"{runs[0].peers:,} peers"
    for what, name in (("busiest hours' peers", "active_peers"), ("down_bytes", "down_bytes")):
        own, exact, held = [], [], []
        for run in runs:
            truth, told = _loads(run.truth, name), _loads(run.told, name)
            capacity, today = _HEADROOM * max(truth.values()), len(truth) - 1
            by_truth, by_told = forecast.fit(truth), forecast.fit(told, _deviation(name))
            exact.append(float(by_truth.full_after(capacity, today)))
            own.append(float(by_told.full_after(capacity, today)))
            earliest, latest = (by_told.full_after(capacity, today, bars=bars) for bars in (1, -1))
            held.append(100.0 * (earliest <= exact[-1] <= latest))
        yield results.compared(size, f"full, by {what}", "days from now", own, "the truth", exact)
        yield results.alone(size, f"full, by {what}: the truth's day within the interval", "%", [sum(held) / len(held)])


def _loads(days: Sequence[Day | Told], name: str) -> dict[int, float]:
    """One value a day, as the forecast takes it."""
    if name != "active_peers":
        return {number: float(day.sums[name]) for number, day in enumerate(days)}
    hours = {24 * number + hour: float(n) for number, day in enumerate(days) for hour, n in enumerate(day.active)}
    return busy(hours, 0)[0]


def _deviation(name: str) -> float:
    """Of one of those values' noise."""
    sigma = QUANTITIES[name].sigma(CLIPS[name])
    return sigma / math.sqrt(BUSY_HOURS) if name == "active_peers" else sigma


def measure(sizes: Sequence[int], days: int, rounds: int, seed: int) -> Iterator[tuple[list[Course], list[Row]]]:
    """For each size: its courses, one for each round, and the rows about them."""
    for size in sizes:
        runs = [course(size, days, seed + number) for number in range(rounds)]
        rows = [*errors(runs), *forecasts(runs)]
        command.say(f"{size:,} peers: {rounds} times {days} days")
        yield runs, rows


def plot(path: Path, courses: Sequence[Course]) -> None:
    """A day's active peers, and all days' volume with what both fits say, for each size."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "jetplane"  # the same courses give the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(courses), figsize=(4.2 * len(courses), 6.4), layout="constrained", squeeze=False)
    for column, run in enumerate(courses):
        first, sigma = run.pairs("active_peers")[:24], QUANTITIES["active_peers"].sigma(CLIPS["active_peers"])
        _draw(axes[0][column], first, sigma)
        axes[0][column].set_title(f"{run.peers:,} peers: active, hour by hour", fontsize=9)
        days = [(truth / 1e12, told / 1e12) for truth, told in run.pairs("down_bytes")]
        _draw(axes[1][column], days, QUANTITIES["down_bytes"].sigma(CLIPS["down_bytes"]) / 1e12)
        later = range(len(days) + 70)
        for values, colour in zip(zip(*days, strict=True), ("black", "tab:blue"), strict=True):
            fitted = forecast.fit(dict(enumerate(values)))
            axes[1][column].plot(later, [fitted.at(day) for day in later], color=colour, linestyle=":", linewidth=1)
        axes[1][column].axhline(
            _HEADROOM * max(truth for truth, _ in days), color="tab:red", linewidth=0.8, label="full"
        )
        axes[1][column].set_title("TB down, day by day, and the forecasts", fontsize=9)
        axes[1][column].legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw(axes: Any, pairs: Sequence[tuple[float, float]], sigma: float) -> None:
    """The truth as a line, what was released as points with their 95 %."""
    truth, told = zip(*pairs, strict=True)
    axes.plot(range(len(pairs)), truth, color="black", linewidth=1, label="truth")
    bars = {"fmt": "o", "markersize": 3, "elinewidth": 0.8, "label": "released, 95 %"}
    axes.errorbar(range(len(pairs)), told, yerr=_WITHIN * sigma, **bars)
    axes.legend(fontsize=7)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, print the table."""
    parser = argparse.ArgumentParser(prog="bench.utility", description="what figures with noise are worth")
    parser.add_argument("--days", type=int, default=DAYS, help="of each course, 21 or more")
    parser.add_argument("--rounds", type=int, default=5, help="courses of each size")
    parser.add_argument("--seed", type=int, default=1, help="of the traffic; the noise has none")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="peers of a node")
    parser.add_argument("--output", type=Path, default=results.DIRECTORY, help="where the results go")
    options = parser.parse_args(arguments)
    return command.run(lambda: _measure(options), root=False)


def _measure(options: argparse.Namespace) -> int:
    head = results.header(quick=False)
    courses, rows = [], []
    for runs, more in measure(options.sizes, options.days, options.rounds, options.seed):
        courses.append(runs[0])
        rows += more
    rows += fleet(options.seed)
    head["notes"] = _notes(options.days, options.seed)
    results.write(options.output, head, rows, name="utility")
    plot(options.output / "utility.svg", courses)
    print(results.markdown(head, rows))
    return 0


def _notes(days: int, seed: int) -> list[str]:
    return [
        f"Traffic is simulated (bench/population.py), {days} days, seed {seed} and on; ledger, release step and noise"
        " are the node's own.",
        "Errors are medians over all releases; spread is their interquartile range.",
        f"Clips: {CLIPS['up_bytes'] / 1e9:g} GB up and {CLIPS['down_bytes'] / 1e9:g} GB down of a peer's day."
        " The truth is what the kernel sums up, that is, clipped; what lies beyond has rows of its own.",
        f"A forecast of {forecast.HORIZON} days means: not within {forecast.HORIZON} days.",
    ]


if __name__ == "__main__":
    sys.exit(main())
