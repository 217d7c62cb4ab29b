"""Peers from a bucket of a real nats-server: followed, compared, judged one by one, and acknowledged."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jetplane import config
from jetplane.config import Config
from jetplane.model import Peer, PublicKey
from jetplane.readable import readable
from jetplane.sources import open_source, session
from jetplane.sources.interface import Change, Refusals
from tests.netns.nats_server import BUCKET, PATIENCE_S, ControlPlane, Relay, Server


def key(number: int) -> PublicKey:
    """A public key that says its number."""
    return PublicKey(number.to_bytes(32))


def record(number: int, **fields: object) -> dict[str, Any]:
    """A peer of the first tunnel."""
    return {"allowed_ips": [f"10.64.{number // 200 + 1}.{number % 200 + 2}"], **fields}


def node_config(url: str, **nats: object) -> Config:
    """A node that takes its peers from there."""
    tree = {
        "uplink": {"interface": "eth0"},
        "exit": {"ipv4": ["203.0.113.10"]},
        "tunnel": [{"name": "jet0", "listen_port": 1, "private_key_file": "k", "addresses": ["10.64.0.1/16"]}],
        "peers": {"source": "nats"},
        "nats": {"servers": [url], "bucket": BUCKET, "node": "paris1", "resync_spread": 0, **nats},
    }
    return config.parse(tree, Path("/nowhere/jetplane.toml"))


class Follower:
    """What a controller does with its source, less the kernel: `peers` is what would be in force."""

    def __init__(self, settings: Config) -> None:
        self.source = open_source(settings)
        self.peers: dict[PublicKey, Peer] = {}
        self.refused = Refusals()
        self.known = False
        self.changes = 0
        self.said: list[str] = []

    def step(self, seconds: float = 0.2) -> None:
        """Wait a moment for something to take, and take it."""
        if readable(self.source, seconds):
            change = self.source.take()
            if change:
                self._apply(change)
        if (problem := self.source.problem()) not in self.said[-1:]:
            self.said.append(problem)

    def until(self, done: Callable[[], bool]) -> None:
        """Go on until this is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, f"still not so; {self.source.problem()!r}, {len(self.peers)} peers"
            self.step()

    def until_it_has(self, *numbers: int) -> None:
        """Go on until exactly these peers are in force."""
        wanted = {key(number) for number in numbers}
        self.until(lambda: self.known and self.peers.keys() == wanted)

    def _apply(self, change: Change) -> None:
        assert change.whole is not self.known, "the first is whole, and no other"
        self.known = True
        self.changes += 1
        self.refused = change.refused
        for public_key, peer in change.peers.items():
            if peer is None:
                del self.peers[public_key]
            else:
                self.peers[public_key] = peer
        self.source.applied(change.revision)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "nats") as running:
        yield running


@pytest.fixture
def plane(server: Server) -> Iterator[ControlPlane]:
    with ControlPlane(server.url) as connected:
        connected.make_buckets()
        yield connected


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that notice silence after seconds; ask for it before the follower."""
    monkeypatch.setattr(session, "HEARTBEAT_S", 0.5)
    monkeypatch.setattr(session, "SILENCE_S", 2.0)


@pytest.fixture
def follower(server: Server, plane: ControlPlane) -> Iterator[Follower]:
    made = Follower(node_config(server.url))
    with made.source:
        yield made


def test_a_bucket_is_copied_and_then_followed(plane: ControlPlane, follower: Follower) -> None:
    assert "left alone" in follower.source.problem()
    plane.put_all((key(n), record(n)) for n in range(300))
    follower.until_it_has(*range(300))
    plane.put(key(300), record(300))
    plane.revoke(key(0))
    plane.revoke(key(1), purge=True)
    follower.until_it_has(*range(2, 301))
    plane.put(key(2), record(400))
    follower.until(lambda: str(follower.peers[key(2)].allowed_ips[0].text()) == "10.64.3.2/32")
    assert follower.source.problem() == ""


def test_an_empty_bucket_means_no_peers(plane: ControlPlane, follower: Follower) -> None:
    follower.until_it_has()
    assert follower.changes == 1


def test_what_is_in_force_is_acknowledged(plane: ControlPlane, follower: Follower) -> None:
    plane.put(key(1), record(1))
    plane.put(key(2), record(1))
    follower.until(lambda: plane.acknowledged().get("paris1", {}).get("revision") == 2)
    assert plane.acknowledged()["paris1"]["refused"] == 1
    plane.revoke(key(2))
    follower.until(lambda: plane.acknowledged()["paris1"]["revision"] == plane.revision() == 3)
    assert plane.acknowledged()["paris1"]["refused"] == 0


def test_bad_records_are_refused_one_by_one(plane: ControlPlane, follower: Follower) -> None:
    plane.put(key(1), record(1))
    plane.put(key(2), b"{not json")
    plane.put(key(3), {"allowed_ips": ["192.0.2.99"]})
    plane.put(key(4), record(1))
    plane.put("not-a-key", record(5))
    plane.put(key(6), record(6, plan="gold"))
    plane.put(key(7), record(7, public_key="x"))
    plane.put(
        key(8), record(8, expires_at="2027-01-31T00:00:00Z", persistent_keepalive=25, preshared_key="A" * 43 + "=")
    )
    follower.until(lambda: follower.known and len(follower.peers) == 2 and follower.refused.total == 6)
    assert follower.peers[key(8)].expires_at == 1801353600
    assert dict(follower.refused.counts) == {"record": 3, "address": 1, "duplicate": 1, "plan": 1}
    told = [str(refusal) for refusal in follower.refused.first]
    assert told[0] == f"{BUCKET}: revision 2: is not JSON"
    assert told[2] == f"{BUCKET}: revision 4: allowed_ips: also owned by {BUCKET}: revision 1"
    assert not [text for text in told if "10.64" in text or "192.0.2" in text or key(4).text() in text]
    plane.revoke(key(1))
    plane.put(key(2), record(2))
    follower.until_it_has(2, 4, 8)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_outage_changes_nothing_and_is_seen_and_what_happened_meanwhile_is_caught_up(
    server: Server, plane: ControlPlane, follower: Follower, number: int
) -> None:
    plane.put_all((key(n), record(n)) for n in range(20))
    follower.until_it_has(*range(20))
    changes = follower.changes
    server.stop(number)
    follower.until(lambda: follower.source.problem() != "")
    assert follower.source.problem().startswith(f"nats bucket {BUCKET}: ")
    assert follower.source.problem().endswith("; the peers stay as they are")
    assert (len(follower.peers), follower.changes) == (20, changes)
    server.start()
    plane.revoke(key(3))
    plane.put(key(30), record(30))
    follower.until_it_has(*range(3), *range(4, 20), 30)
    follower.until(lambda: follower.source.problem() == "")
    follower.until(lambda: plane.acknowledged()["paris1"]["revision"] == plane.revision())


def test_a_deletion_of_which_no_marker_is_left_is_found_by_comparing(server: Server, plane: ControlPlane) -> None:
    """The node is away while a key is deleted and its marker removed: no message will ever tell of it."""
    plane.put_all((key(n), record(n)) for n in range(10))
    with Relay(server) as relay:
        follower = Follower(node_config(relay.url))
        with follower.source:
            follower.until_it_has(*range(10))
            relay.cut(on=True)
            follower.until(lambda: follower.source.problem() != "")
            plane.revoke(key(4))
            plane.revoke(key(5))
            plane.forget_markers()
            plane.put(key(5), record(5))
            relay.cut(on=False)
            follower.until_it_has(*range(4), *range(5, 10))


def test_a_server_that_hangs_is_an_outage(
    impatient: None, server: Server, plane: ControlPlane, follower: Follower
) -> None:
    plane.put(key(1), record(1))
    follower.until_it_has(1)
    server.hang(on=True)
    follower.until(lambda: follower.source.problem() != "")
    assert "fallen silent" in " ".join(follower.said) or "no answer" in follower.source.problem()
    server.hang(on=False)
    plane.put(key(2), record(2))
    follower.until_it_has(1, 2)


def test_a_bucket_made_anew_replaces_the_old_one(impatient: None, plane: ControlPlane, follower: Follower) -> None:
    plane.put_all((key(n), record(n)) for n in range(10))
    follower.until_it_has(*range(10))
    plane.delete_buckets()
    plane.make_buckets()
    plane.put(key(3), record(3))
    plane.put(key(50), record(50))
    follower.until_it_has(3, 50)
    follower.until(lambda: plane.acknowledged().get("paris1", {}).get("revision") == 2)


def test_no_bucket_is_an_outage_not_an_empty_one(server: Server) -> None:
    follower = Follower(node_config(server.url, bucket="nobody"))
    with follower.source:
        follower.until(lambda: "there is no such bucket" in follower.source.problem())
        assert not follower.known
