"""Forecasts from released figures: the line, its error bars, gaps, small nodes, and servers that are no Prometheus."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from jetplane.capacity import forecast, outlook
from jetplane.capacity.figures import Node
from jetplane.capacity.outlook import _place, busy, total
from jetplane.capacity.prometheus import Prometheus, PrometheusError
from jetplane.metrics.noise import QUANTITIES

RHYTHM = (0, 1, 2, 3, -1, -2, -3)
DAY = 20_454


def line(day: int) -> float:
    return 100 + 2 * (day - DAY) + RHYTHM[day % 7]


def test_a_line_with_a_week_is_found_again_and_carried_on() -> None:
    found = forecast.fit({day: line(day) for day in range(DAY, DAY + 28)})
    assert found.slope == pytest.approx(2)
    assert all(found.at(day) == pytest.approx(line(day)) for day in range(DAY, DAY + 400))
    assert found.error(DAY) == pytest.approx(0, abs=1e-9)
    full = next(day for day in range(DAY + 27, DAY + 400) if line(day) >= 200)
    assert found.full_after(199.999999, DAY + 27) == full - DAY - 27
    assert forecast.fit(dict.fromkeys(range(28), 5.0)).full_after(6, 27) == forecast.HORIZON


def test_days_may_be_missing_but_no_weekday_and_not_too_many() -> None:
    values = {day: line(day) for day in range(DAY, DAY + 28) if day not in (DAY + 3, DAY + 11, DAY + 20)}
    assert forecast.fit(values).at(DAY + 60) == pytest.approx(line(DAY + 60))
    for bad in (range(20), [day for day in range(40) if day % 7]):
        with pytest.raises(ValueError, match="with every weekday among them"):
            forecast.fit(dict.fromkeys(bad, 1.0))


@pytest.mark.parametrize(("known", "scatter"), [(30.0, 0.0), (30.0, 50.0), (0.0, 30.0)], ids=["noise", "both", "none"])
def test_the_interval_holds_the_truth_nineteen_times_of_twenty(known: float, scatter: float) -> None:
    """Whether the days scatter by the noise alone, by more than that, or by an amount that nobody has told."""
    chance, size, runs = random.Random(7), math.hypot(known, scatter), 1000
    values, days = 0, 0
    full = next(day for day in range(DAY, DAY + 400) if line(day) >= 250)
    for _ in range(runs):
        found = forecast.fit({day: line(day) + chance.gauss(0, size) for day in range(DAY, DAY + 28)}, known)
        values += abs(found.at(DAY + 60) - line(DAY + 60)) <= found.error(DAY + 60)
        earliest, latest = (found.full_after(250, DAY + 27, bars=bars) for bars in (1, -1))
        days += earliest <= full - DAY - 27 <= latest
    assert 0.93 <= values / runs <= 0.99 and 0.93 <= days / runs <= 1, (values / runs, days / runs)


def test_the_busiest_hours_are_those_of_the_mean_not_of_each_days_noise() -> None:
    """The largest three figures of each day would lie above the truth, the more the larger the noise."""
    chance, truth = random.Random(3), [500 + 100 * (hour in (19, 20, 21)) for hour in range(24)]
    hours = {24 * DAY + n: truth[n % 24] + chance.gauss(0, 100) for n in range(24 * 42)}
    peaks, factor, deviation = busy(hours, 100)
    mean = sum(peaks.values()) / len(peaks)
    assert len(peaks) == 42 and abs(mean - 600) < 4 * 100 / math.sqrt(3 * 42)
    assert abs(factor / (600 / 512.5) - 1) < 4 * deviation < 0.1
    naive = sum(sum(sorted(hours[24 * day + h] for h in range(24))[-3:]) / 3 for day in peaks) / len(peaks)
    assert naive - 600 > 50, "the control"


def node(name: str, *, first: int = 0, days: int = 42, peers: float = 1000, gaps: tuple[int, ...] = ()) -> Node:
    """A node without noise in its figures, whose deviations say otherwise."""
    hours = range(24 * (DAY + first), 24 * (DAY + days))
    volumes = {day: 8.64e12 * (1 + day - DAY) / 42 for day in range(DAY + first, DAY + days) if day not in gaps}
    return Node(
        region="eu",
        instance=name,
        alone=False,
        told={
            "active_peers": {n: peers * (2 if n % 24 in (19, 20, 21) else 1) for n in hours},
            "up_bytes": volumes,
            "down_bytes": volumes,
            "up_clipped_peers": dict.fromkeys(volumes, 0.0),
            "down_clipped_peers": dict.fromkeys(volumes, 100.0),
        },
        deviation={name: 36.0 if name.endswith("peers") else 1e9 for name in QUANTITIES},
        capacity={"up": 4e8, "down": 4e8},
        design_peers=2000,
    )


def test_a_region_adds_nodes_up_and_the_variances_of_their_noise() -> None:
    one, four = (_place("eu", "region", [node(f"n{i}") for i in range(count)], DAY + 42) for count in (1, 4))
    for alone, summed in zip(one.forecasts, four.forecasts, strict=True):
        assert summed.today == pytest.approx(4 * alone.today)
        assert summed.capacity == pytest.approx(4 * (alone.capacity or 0))
        assert summed.today_error == pytest.approx(2 * alone.today_error)
    peers, up, down = four.forecasts
    assert peers.days[1] == 0, "two thousand in the busiest hours of each: that is what they are designed for"
    assert up.today == pytest.approx(4 * 1e8 * 43 / 42 * 2 / 1.125), "a day's mean, and twice the peers in its evening"
    assert (up.clipped_peers, down.clipped_peers) == (0, 400)


def test_a_node_that_comes_later_and_one_that_missed_a_day_bend_no_line() -> None:
    nodes = [node(f"n{i}") for i in range(10)]
    late, gappy = node("late", first=30), node("gappy", gaps=(DAY + 5,))
    sums = total([*nodes, gappy], "up_bytes")
    assert sums == pytest.approx(total([*nodes, node("whole")], "up_bytes")), "what one missed is taken from the others"
    assert DAY + 5 not in total([nodes[0], gappy], "up_bytes"), "one of two is too few to say"
    joined = total([*nodes, late], "up_bytes")
    assert joined[DAY + 29] == pytest.approx(10 / 11 * total([*nodes, node("early")], "up_bytes")[DAY + 29])


def test_without_capacity_deviation_or_peers_nothing_is_made_up() -> None:
    told = node("n")
    unknown = _place("n", "node", [_with(told, capacity={})], DAY + 42)
    assert [forecast.capacity for forecast in unknown.forecasts] == [2000, None, None]
    assert unknown.forecasts[1].days == (None, None, None)
    partly = _place("eu", "region", [told, _with(told, capacity={})], DAY + 42)
    assert partly.forecasts[1].capacity is None, "the sum of those that are known would be too low"
    for bad, why in (
        (_with(told, deviation={}), "jetplane_noise_standard_deviation is missing"),
        (node("n", peers=0.5), "noise is all that the figures show"),
        (node("n", days=20), "20 days of figures: a forecast needs 21"),
    ):
        with pytest.raises(ValueError, match=why):
            _place("n", "node", [bad], DAY + 42)


def _with(told: Node, **changes: object) -> Node:
    fields = {name: getattr(told, name) for name in Node.__slots__}
    return Node(**{**fields, **changes})


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """A server that is no Prometheus, and what it answers: statuses and bodies."""
    answers: list[tuple[int, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = answers[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}", answers
        serving.shutdown()
        thread.join()


NOTHING = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": []}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (404, b"<html>", "refuses the query: HTTP status 404"),
        (400, b'{"status": "error", "error": "bad\\nquery"}', "refuses the query: bad query"),
        (200, b"<html>", "is not Prometheus"),
        (200, b"[]", "is not Prometheus"),
        (200, b'{"status": "success", "data": {"resultType": "scalar"}}', "is not Prometheus"),
        (200, NOTHING, "has no jetplane_active_peers of the last 42 days"),
    ],
)
def test_a_server_that_is_another_is_told_in_one_line(
    server: tuple[str, list[tuple[int, bytes]]], status: int, body: bytes, says: str
) -> None:
    url, answers = server
    answers.append((status, body))
    with pytest.raises(PrometheusError, match=says) as raised:
        outlook(url, now=DAY * 86400)
    assert "\n" not in str(raised.value) and url in str(raised.value)


def test_who_cannot_be_reached_and_what_is_no_url_is_told() -> None:
    with pytest.raises(
        PrometheusError, match=r"http://127\.0\.0\.1:1: Prometheus cannot be reached: Connection refused"
    ):
        outlook("http://127.0.0.1:1", now=DAY * 86400)
    for url in ("127.0.0.1:9090", "ftp://x", "http://", "http://x/?a=b"):
        with pytest.raises(PrometheusError, match="cannot be used"):
            Prometheus(url)
    with pytest.raises(PrometheusError, match="a password cannot be part") as raised:
        Prometheus("https://me:secret@x/")
    assert "secret" not in str(raised.value)
