"""A bucket's replica: two consumers may deliver in any order, and it comes to the same."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from jetplane import config
from jetplane.config import Config
from jetplane.model import PublicKey
from jetplane.sources.replica import Entry, Replica, kv_key


def _config() -> Config:
    tree = {
        "uplink": {"interface": "eth0"},
        "exit": {"ipv4": ["203.0.113.10"]},
        "tunnel": [{"name": "jet0", "listen_port": 1, "private_key_file": "k", "addresses": ["10.64.0.1/16"]}],
        "peers": {"source": "nats"},
        "nats": {"servers": ["nats://127.0.0.1:4222"], "bucket": "peers", "node": "n"},
    }
    return config.parse(tree, Path("/nowhere/jetplane.toml"))


def _key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32))


def _entry(number: int, revision: int, address: int | None) -> Entry:
    value = None if address is None else json.dumps({"allowed_ips": [f"10.64.0.{address}"]}).encode()
    return Entry(kv_key(_key(number)), revision, value)


def _copied(*entries: Entry, revision: int = 0) -> Replica:
    """A replica that has had its first copy, and has told it."""
    replica = Replica(_config(), frozenset())
    replica.reset("made today")
    replica.begin(1, revision)
    for entry in entries:
        replica.seen(1, entry)
    replica.end(1)
    change = replica.settle()
    assert change
    assert change.whole
    return replica


@pytest.mark.parametrize("seed", range(60))
def test_a_comparison_may_come_at_any_moment_between_changes(seed: int) -> None:
    """A bucket changes at random; a comparison begins somewhere, and its entries arrive anywhere after that."""
    chance = random.Random(seed)
    replica = _copied()
    bucket: dict[int, Entry] = {}
    peers: set[PublicKey] = set()
    snapshot: list[Entry] = []
    missed = chance.random() < 0.5  # deletions without a message, before the comparison begins
    for revision in range(1, 120):
        number = chance.randrange(8)
        entry = _entry(number, revision, None if chance.random() < 0.4 else number + 10)
        bucket[number] = entry
        if not (missed and revision < 60 and entry.value is None):
            replica.watch(entry)
        if revision == 60:
            replica.begin(7, revision)
            snapshot = sorted((e for e in bucket.values() if e.value), key=lambda e: e.revision)
        while snapshot and chance.random() < 0.1:
            replica.seen(7, snapshot.pop(0))
        if change := replica.settle():
            peers = {key for key in peers | change.peers.keys() if change.peers.get(key, True)}
    for entry in snapshot:
        replica.seen(7, entry)
    replica.end(7)
    if change := replica.settle():
        peers = {key for key in peers | change.peers.keys() if change.peers.get(key, True)}
    assert peers == {_key(number) for number, entry in bucket.items() if entry.value}
    assert replica.revision == 119


def test_nothing_is_told_before_the_first_copy_is_complete() -> None:
    replica = Replica(_config(), frozenset())
    replica.reset("made today")
    replica.begin(1, 5)
    replica.seen(1, _entry(1, 3, 10))
    replica.watch(_entry(2, 6, 11))
    assert replica.settle() is None
    replica.end(1)
    change = replica.settle()
    assert change
    assert (change.whole, change.peers.keys(), change.revision) == (True, {_key(1), _key(2)}, 6)


def test_a_comparison_that_was_broken_off_counts_for_nothing() -> None:
    replica = _copied(_entry(1, 1, 10), _entry(2, 2, 11), revision=2)
    replica.begin(2, 2)
    replica.seen(2, _entry(1, 1, 10))
    replica.begin(3, 2)
    replica.end(2)
    assert replica.settle() is None
    replica.seen(3, _entry(2, 2, 11))
    replica.end(3)
    change = replica.settle()
    assert change
    assert dict(change.peers) == {_key(1): None}


def test_what_another_bucket_says_is_compared_with_what_was_told() -> None:
    replica = _copied(_entry(1, 10, 10), _entry(2, 20, 11), revision=20)
    replica.reset("made tomorrow")
    replica.begin(2, 1)
    replica.seen(2, _entry(2, 1, 11))
    assert replica.settle() is None, "what was told stays"
    replica.end(2)
    change = replica.settle()
    assert change
    assert (change.whole, dict(change.peers), change.revision) == (False, {_key(1): None}, 1)


@pytest.mark.parametrize(
    "key", ["", "a" * 43, kv_key(_key(1)) + "=", "A" * 42 + "B", "A" * 42 + "+", _key(1).text(), "é" * 43, "A" * 44]
)
def test_a_key_has_one_form(key: str) -> None:
    """Else one public key could have two records."""
    replica = _copied(Entry(key, 1, b'{"allowed_ips": ["10.64.0.2"]}'))
    assert replica.refused == 1


def test_every_public_key_can_be_a_key() -> None:
    for number in range(256):
        key = PublicKey(bytes([number]) * 32)
        replica = _copied(Entry(kv_key(key), 1, b'{"allowed_ips": ["10.64.0.2"]}'))
        assert replica.refused == 0
