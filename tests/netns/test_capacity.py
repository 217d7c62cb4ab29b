"""`jetplane capacity` against a real Prometheus, whose past was written by its own tool: six weeks of three nodes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jetplane.lab import namespaces
from jetplane.lab.waiting import patience, wait_until
from jetplane.metrics.noise import QUANTITIES

URL = "http://127.0.0.1:9090"
DAY, HOUR = 86_400, 3_600
NOW = int(time.time())
TODAY = NOW // DAY
DAYS = 43
"""Of figures, yesterday's the last."""
GONE = NOW - 10 * DAY
"""When a third node was taken away."""
CLIPS = {"up_bytes": 4 * 10**9, "down_bytes": 20 * 10**9, "handshakes": 720}
SIGMA = {name: quantity.sigma(CLIPS.get(name, 1)) for name, quantity in QUANTITIES.items()}
LINE = 1.25e9
"""10 Gbit/s, in bytes per second."""


def peers(day: int, hour: int) -> float:
    """The truth of the large node: 4,000 in the evening, thirty more each day, and a quiet night."""
    return (4000 + 30 * (day - TODAY)) * (1.0 if hour in (19, 20, 21) else 0.5)


def volume(day: int) -> float:
    """Half of the line in the evening of today; 0.5 % of it more each day."""
    mean_of_the_evening = (3 * 1.0 + 21 * 0.5) / 24
    return LINE * (0.5 + 0.005 * (day - TODAY)) * DAY * mean_of_the_evening


def exposition(chance: random.Random) -> str:
    """Six weeks of what Prometheus would have scraped, as seldom as tells the same."""
    series: dict[str, list[tuple[str, str]]] = {}

    def say(metric: str, labels: str, at: int, value: float) -> None:
        series.setdefault(metric, []).append((labels, f"{value:.10g} {at}"))

    for name, use, size, end in (("exit1", "node", 1.0, NOW), ("small", "sum", 0.1, NOW), ("gone", "node", 1.0, GONE)):
        node = f'region="eu",instance="{name}:9586"'
        start = (TODAY - DAYS + 1) * DAY
        for at in range(start + 600, end, HOUR):
            hour = at // HOUR - 1
            active = size * peers(hour // 24, hour % 24) + chance.gauss(0, SIGMA["active_peers"])
            say("jetplane_active_peers", f'{node},use="{use}"', at, active)
            say("jetplane_released_until_seconds", f'{node},epoch="active"', at, (hour + 1) * HOUR)
        for day in range(TODAY - DAYS, TODAY):
            of_the_day = {}
            for way in ("up", "down"):
                noise = chance.gauss(0, SIGMA[f"{way}_bytes"])
                of_the_day[f"jetplane_forwarded_{way}_bytes"] = size * volume(day) + noise
                of_the_day[f"jetplane_clipped_{way}_peers"] = chance.gauss(0, 36) + 300 * (way == "down")
            for at in range((day + 1) * DAY + 600, min((day + 2) * DAY, end), 6 * HOUR):
                say("jetplane_released_until_seconds", f'{node},epoch="volume"', at, (day + 1) * DAY)
                for metric, figure in of_the_day.items():
                    say(metric, f'{node},use="{use}"', at, figure)
        for at in range(start, end, 7 * DAY):
            say("jetplane_design_peers", node, at, 5000 * size)
            for epoch, length in (("active", HOUR), ("volume", DAY)):
                say("jetplane_epoch_seconds", f'{node},epoch="{epoch}"', at, length)
            for way in ("up", "down"):
                say("jetplane_capacity_bytes_per_second", f'{node},direction="{way}"', at, size * LINE)
            for quantity, sigma in SIGMA.items():
                say("jetplane_noise_standard_deviation", f'{node},quantity="{quantity}"', at, sigma)
    lines = []
    for metric, samples in series.items():
        lines.append(f"# TYPE {metric} gauge")
        lines += [f"{metric}{{{labels}}} {sample}" for labels, sample in sorted(samples, key=lambda item: item[0])]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def prometheus(namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The namespace in which it listens; it scrapes nobody."""
    place = tmp_path_factory.mktemp("prometheus")
    (place / "past.txt").write_text(exposition(random.Random(5)))
    (place / "prometheus.yml").write_text("scrape_configs: []\n")
    one_block = ("create-blocks-from", "--max-block-duration=1440h")  # two hours each would be five hundred
    written = ["promtool", "tsdb", *one_block, "openmetrics", "--quiet", "past.txt", "data"]
    subprocess.run(written, cwd=place, check=True, capture_output=True, timeout=patience(120))
    command = [
        *("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--storage.tsdb.retention.time=1y"),
        *("--web.listen-address=127.0.0.1:9090", "--log.level=error"),
    ]
    server = namespaces.inside(namespace, lambda: subprocess.Popen(command, cwd=place, stderr=subprocess.DEVNULL))
    try:
        wait_until("Prometheus", lambda: namespaces.inside(namespace, _ready), seconds=60)
        yield namespace
    finally:
        server.terminate()
        server.wait()


def _ready() -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{URL}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def ask(prometheus: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `jetplane capacity` where Prometheus is."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jetplane", "capacity", *arguments]
        return namespaces.inside(
            prometheus, lambda: subprocess.run(command, capture_output=True, text=True, timeout=patience(60))
        )

    return run


def test_large_nodes_and_regions_are_foreseen_with_the_truth_in_every_interval(
    ask: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = ask("--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["source"] == URL and told["left_out"] == [
        {"name": "gone:9586", "why": "has released nothing for two days"}
    ]
    places = {place["name"]: place for place in told["places"]}
    assert [(place["name"], place["kind"], place["nodes"]) for place in told["places"]] == [
        ("eu", "region", 2),
        ("exit1:9586", "node", 1),
    ], "a small node counts in sums alone"
    for name, size in (("exit1:9586", 1.0), ("eu", 1.1)):
        assert places[name]["days"] >= 41
        active, up, down = places[name]["forecasts"]
        holds(active, today=4000 * size, a_day=30 * size, capacity=5000 * size, full=34)
        for line in (up, down):
            holds(line, today=0.5 * LINE * size, a_day=0.005 * LINE * size, capacity=LINE * size, full=100)
        assert (up["clipped_peers"], abs(down["clipped_peers"] / (300 * places[name]["nodes"]) - 1) < 0.1) == (0, True)


def holds(told: dict[str, Any], *, today: float, a_day: float, capacity: float, full: int) -> None:
    """Whether each interval holds the truth, and is narrow enough to be of use. Seven sigmas: this must not happen."""
    assert abs(told["today"] - today) <= 3.5 * told["today_error"] < 0.2 * today
    assert abs(told["a_day"] - a_day) <= 3.5 * told["a_day_error"] < a_day
    assert told["capacity"] == pytest.approx(capacity)
    days = told["full_in_days"]
    assert days["earliest"] <= days["by_the_line"] <= days["latest"]
    wide = 2.5 * (days["latest"] - days["earliest"]) + 1
    assert abs(days["by_the_line"] - full) <= wide <= 1.5 * full


def test_people_are_told_the_same_in_a_table(ask: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = ask()
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    for words in ("eu, 2 nodes", "active peers", "±", "(", "not all bytes are counted"):
        assert words in said


def test_nobody_there_is_said_in_one_line(ask: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = ask("--prometheus", "http://127.0.0.1:9")
    assert done.returncode == 1 and done.stdout == ""
    assert "jetplane: http://127.0.0.1:9: Prometheus cannot be reached: Connection refused" in done.stderr
    assert done.stderr.count("\n") == 1
