"""Class D on a real node: real subscribers, epochs of seconds, and what the exporter shows of them."""

from __future__ import annotations

import json
import stat
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from jetplane import abi, config
from jetplane.dataplane import bpf
from jetplane.dataplane.maps import possible_cpus
from jetplane.dataplane.node import DataPlane
from jetplane.dataplane.statistics import Statistics
from jetplane.lab import namespaces, topology, traffic
from jetplane.lab.addresses import SITES_IPV4, LabOptions
from jetplane.lab.node import metrics_url
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience, wait_until
from jetplane.metrics import ledger, noise, released
from jetplane.metrics.released import Release

pytestmark = pytest.mark.timeout(300)

CLIP = 1_000_000
MANY = 10**15
"""More than any noise here: what so many peers would have sent."""
EPOCH_S = 8
SHIFT = abi.constants()["EPOCH_SHIFT"]


@pytest.fixture(scope="module")
def lab(root: None) -> Iterator[Lab]:
    """One tunnel, two subscribers, epochs of eight seconds."""
    with topology.lab(LabOptions(peers=2)) as built:
        text = built.node.config.read_text()
        more = f"[metrics]\ndesign_peers = 1000\nactive_epoch = {EPOCH_S}\nvolume_epoch = {EPOCH_S}\n"
        more += "up_clip_mb = 1\ndown_clip_mb = 1\n"
        assert text.count("[metrics]\n") == 1
        built.node.config.write_text(text.replace("[metrics]\n", more))
        built.start()
        yield built


def scrape(lab: Lab) -> dict[str, float]:
    """Series → value, as the exporter tells them."""

    def ask() -> str:
        with urllib.request.urlopen(metrics_url(lab.options), timeout=patience(5)) as answer:
            return str(answer.read().decode())

    text = namespaces.inside(lab.plan.node, ask)
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, _, value in lines}


def status(lab: Lab) -> dict[str, Any]:
    return json.loads(lab.node.jetplane("status", "--json").stdout)  # type: ignore[no-any-return]


def releases(lab: Lab) -> dict[str, Release]:
    return released.load(lab.node.run_directory / released.FILE)


def next_release(lab: Lab, name: str, after: int = 0) -> Release:
    """Wait for one whose epoch ended later than `after`; a machine under load may skip some."""
    found: list[Release] = []

    def there() -> bool:
        release = releases(lab).get(name)
        if release is not None and release.end > after:
            found.append(release)
        return bool(found)

    wait_until(f"a release of {name}", there, seconds=100)
    return found[0]


def visit(lab: Lab, number: int) -> traffic.Visit:
    return traffic.Visit(lab.name, lab.plan.subscribers[number].namespace, SITES_IPV4[0])


def in_the_node(lab: Lab, work: Any) -> Any:
    """What `work` returns of the node's data plane."""

    def ask() -> Any:
        dataplane = DataPlane(config.load(lab.node.config))
        try:
            return work(dataplane)
        finally:
            dataplane.close()

    return namespaces.inside(lab.plan.node, ask)


def within(release: Release, name: str, truth: float, sigmas: float = 8) -> bool:
    sigma = noise.QUANTITIES[name].sigma(release.clips[name])
    return abs(release.figures[name] - truth) <= sigmas * sigma


def test_what_two_subscribers_do_is_released_within_its_error_and_shown(lab: Lab) -> None:
    for number in (0, 1):
        assert traffic.ping(visit(lab, number), 3, wait=2) >= 1
    active, volume = next_release(lab, "active"), next_release(lab, "volume")
    assert within(active, "active_peers", 1)
    for name in ("up_bytes", "down_bytes", "up_clipped_peers", "down_clipped_peers", "handshakes"):
        assert within(volume, name, 0), "two peers cannot be seen: the noise is 16 clips"
    assert volume.clips["up_bytes"] == CLIP and volume.clips["handshakes"] == 1
    wait_until("the exporter", lambda: 'jetplane_active_peers{use="node"}' in scrape(lab), seconds=30)
    told = scrape(lab)
    assert told['jetplane_noise_standard_deviation{quantity="up_bytes"}'] == 16 * CLIP
    assert told['jetplane_epoch_seconds{epoch="active"}'] == EPOCH_S
    assert told["jetplane_ledger_ok"] == 1
    assert told["jetplane_privacy_epsilon"] > 100
    privacy = status(lab)["privacy"]
    assert privacy["epsilon"] > 100 and not privacy["promised"]
    for name in (released.FILE, ledger.FILE, "epochs.json"):
        assert stat.S_IMODE((lab.node.run_directory / name).stat().st_mode) == 0o600


def test_what_is_released_is_what_the_kernel_has_summed_up(lab: Lab) -> None:
    """Two subscribers do not show in the noise; so the sum is made that of many."""

    def add(dataplane: DataPlane) -> None:
        for parity in (0, 1):
            key = 2 * 1 + parity  # UP_BYTES is the second quantity; whichever epoch is running
            value = MANY.to_bytes(8, "little") + bytes(8 * (possible_cpus() - 1))
            bpf.update(dataplane._map("aggregates").fd, key.to_bytes(4, "little"), value)

    def shows() -> bool:
        in_the_node(lab, add)
        release = releases(lab)["volume"]
        return release.figures["up_bytes"] > MANY // 2

    wait_until("a release of the larger sum", shows, seconds=100)
    release = releases(lab)["volume"]
    assert within(release, "up_bytes", MANY)
    assert within(release, "down_bytes", 0)


def test_a_peer_that_objects_is_in_no_sum_from_that_moment_on(lab: Lab) -> None:
    text = lab.node.peers.read_text()
    key = f'public_key = "{lab.public_keys[0]}"\n'

    def objected() -> int:
        return int(status(lab)["counters"]["OBJECTED_OUT_BYTES"])

    assert objected() == 0
    lab.node.peers.write_text(text.replace(key, f"{key}statistics = false\n"))
    wait_until("the objection", lambda: traffic.ping(visit(lab, 0), 1, wait=1) >= 0 and objected() > 0, seconds=30)
    wait_until("epochs in which nothing counted", lambda: not used(lab).entries, seconds=30)

    def visited_within_an_epoch() -> bool:
        epochs = used(lab).epochs
        assert traffic.ping(visit(lab, 0), 3, wait=2) >= 1
        found = used(lab)
        assert not found.entries
        return found.epochs == epochs

    wait_until("three requests in one epoch", visited_within_an_epoch, seconds=60)
    lab.node.peers.write_text(text)
    before = objected()

    def takes_part() -> bool:
        return traffic.ping(visit(lab, 0), 1, wait=1) >= 1 and bool(used(lab).entries)

    wait_until("it to take part again", takes_part, seconds=30)
    assert objected() >= before


class Used(NamedTuple):
    """What peers have used of their clips, in the epochs of this moment."""

    epochs: tuple[int, int]  # active, volume
    entries: dict[int, tuple[bool, int, int]]  # place → active, bytes up, bytes down; of those that are not quiet


def used(lab: Lab) -> Used:
    """Words of epochs that are over say nothing, and may be swept at any moment."""

    def look(dataplane: DataPlane) -> Used:
        now = dataplane._map("epochs").lookup(0)
        epochs = now.active >> SHIFT, now.volume >> SHIFT

        def of(word: int, epoch: int) -> int:
            return word & ((1 << SHIFT) - 1) if word >> SHIFT == epoch else 0

        words = dataplane._map("peer_statistics").items()
        found = {
            place: (word.active >> SHIFT == epochs[0], of(word.up, epochs[1]), of(word.down, epochs[1]))
            for place, word in words
        }
        return Used(epochs, {place: entry for place, entry in found.items() if any(entry)})

    return in_the_node(lab, look)  # type: ignore[no-any-return]


def test_killed_in_the_middle_of_an_epoch_and_of_a_step_nothing_is_released_twice(lab: Lab) -> None:
    seen: dict[int, Release] = {}

    def look() -> None:
        release = releases(lab).get("active")
        if release is not None:
            assert seen.setdefault(release.start, release) == release, "one epoch, two figures"

    for _ in range(3):
        look()
        lab.node.kill()
        lab.node.start()
        look()
    book = ledger.load(lab.node.run_directory / ledger.FILE)
    until = book.released_until["active"]
    after = next_release(lab, "active", until)
    look()
    assert after.start >= until
    number = in_the_node(lab, lambda dataplane: Statistics.number(dataplane.statistics, "active"))
    assert number >= 3
