"""Source, roster, alarm and node together, with a source and a node that fail when they are told to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from jetplane.alarm import Alarm
from jetplane.config import Config, parse
from jetplane.errors import BackendError, JetplaneError
from jetplane.following import Following
from jetplane.health import Health
from jetplane.model import InnerAddress, Peer, PublicKey
from jetplane.node import Applied
from jetplane.readable import readable
from jetplane.sources.interface import Change, Refusal, Refusals

CONFIG: Config = parse(
    {
        "uplink": {"interface": "up0"},
        "exit": {"ipv4": ["203.0.113.10"]},
        "tunnel": [
            {"name": "jet0", "listen_port": 1, "private_key_file": "a", "addresses": ["10.64.0.1/16"]},
            {"name": "jet1", "listen_port": 2, "private_key_file": "a", "addresses": ["10.65.0.1/16"]},
            {"name": "jet0n", "listen_port": 3, "private_key_file": "b", "follows": "jet0"},
        ],
        "peers": {"path": "peers"},
    },
    Path("/x"),
)


def peer(number: int, expires_at: int | None = None, network: int = 64) -> Peer:
    address = InnerAddress.parse(f"10.{network}.0.{number + 1}")
    return Peer(PublicKey(bytes([number]) * 32), (address,), expires_at=expires_at)


def said(*peers: Peer) -> dict[PublicKey, Peer | None]:
    return {one.public_key: one for one in peers}


class Script:
    """A source that says what it is given, and what it was told."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.in_force: list[int] = []
        self.trouble = ""

    def say(self, peers: Mapping[PublicKey, Peer | None], *, whole: bool = False, refused: int = 0) -> None:
        first = tuple(Refusal("record", f"peers.toml: peer[{n}]", "is bad") for n in range(refused))
        told = Refusals({"record": refused} if refused else {}, first)
        self.changes.append(Change(whole, peers, len(self.in_force) + len(self.changes) + 1, told))

    def take(self) -> Change | None:
        return self.changes.pop(0) if self.changes else None

    def applied(self, revision: int) -> None:
        self.in_force.append(revision)

    def problem(self) -> str:
        return self.trouble


class Sweepless:
    def sweep(self) -> None:
        pass


class Plain:
    """A node that holds what it is told, unless it refuses."""

    config = CONFIG
    dataplane = Sweepless()

    def __init__(self) -> None:
        self.holds: dict[PublicKey, Peer] = {}
        self.refuses = False
        self.did: list[str] = []

    def _do(self, what: str) -> None:
        self.did.append(what)
        if self.refuses:
            raise BackendError("jet0: refused")

    def reconcile(self, wanted: Mapping[str, Mapping[PublicKey, Peer]]) -> Applied:
        self._do("reconcile")
        self.holds = {key: one for peers in wanted.values() for key, one in peers.items()}
        return Applied(1, 1)

    def observe(self) -> None:
        self.did.append("look")

    def apply_change(self, changed: Mapping[PublicKey, Peer | None]) -> Applied:
        self._do("change")
        for key, one in changed.items():
            if one is None:
                self.holds.pop(key, None)
            else:
                self.holds[key] = one
        return Applied(1, 1)

    def cut_off(self, key: PublicKey) -> bool:
        self._do("cut off")
        return self.holds.pop(key, None) is not None


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    with Alarm() as made:
        yield made


@pytest.fixture
def stage(alarm: Alarm) -> tuple[Script, Plain, Following, Health, list[str]]:
    source, node, health, told = Script(), Plain(), Health(), list[str]()
    parts: Any = (node, source, alarm, health, frozenset())
    following = Following(
        *parts,
        changed=lambda: told.append("changed"),
        removed=lambda: told.append("removed"),
        retry=lambda: told.append("retry"),
    )
    return source, node, following, health, told


Stage = tuple[Script, Plain, Following, Health, list[str]]


def test_the_first_word_is_a_whole_and_what_follows_are_parts(stage: Stage) -> None:
    source, node, following, _, told = stage
    source.say(said(peer(1), peer(2, network=65)), whole=True)
    following.take()
    assert following.count() == {"jet0": 1, "jet0n": 1, "jet1": 1}
    source.say({**said(peer(3)), peer(1).public_key: None})
    following.take()
    assert node.did == ["look", "reconcile", "change"]
    assert node.holds == said(peer(2, network=65), peer(3))
    assert source.in_force == [1, 2]
    assert told == ["changed", "changed", "removed"]


def test_while_the_source_has_said_nothing_the_node_keeps_what_it_has(stage: Stage) -> None:
    source, node, following, health, _ = stage
    node.holds = dict(said(peer(1)))  # type: ignore[arg-type]
    source.trouble = "the server does not answer"
    following.take()
    following.reconcile()
    assert (node.did, list(node.holds)) == ([], [peer(1).public_key])
    assert health.problems() == ("source: the server does not answer",)
    assert following.forget(peer(1).public_key), "a source that said nothing may have it"
    assert (node.did, node.holds) == (["cut off"], {})
    source.say(said(peer(1), peer(2)), whole=True)
    source.trouble = ""
    following.take()
    assert node.holds == said(peer(2)), "what is forgotten stays away"
    assert health.problems() == ()


def test_what_failed_is_not_in_force_and_the_next_try_is_a_whole(stage: Stage) -> None:
    source, node, following, health, told = stage
    source.say(said(peer(1)), whole=True)
    following.take()
    node.refuses = True
    source.say(said(peer(2)))
    following.take()
    assert (source.in_force, told[-2:]) == ([1], ["retry", "changed"])
    assert health.problems() == ("reconcile: jet0: refused",)
    with pytest.raises(JetplaneError, match="not cut off yet, tried again until it is: jet0: refused"):
        following.forget(peer(1).public_key)
    node.refuses = False
    following.reconcile()
    assert node.did[2:] == ["change", "look", "reconcile", "reconcile"], "who forgets looks first"
    assert node.holds == said(peer(2)), "and the forgotten one is gone"
    assert source.in_force == [1, 2]


def test_the_alarm_cuts_off_whom_the_source_still_names(stage: Stage, alarm: Alarm) -> None:
    source, node, following, _, _ = stage
    source.say(said(peer(1, expires_at=int(time.time()) + 1), peer(2)), whole=True)
    following.take()
    assert len(node.holds) == 2
    assert readable(alarm, 3)
    following.ring()
    assert node.holds == said(peer(2))
    assert not readable(alarm, 0)


def test_refused_records_stand_in_health_until_they_are_mended(stage: Stage) -> None:
    source, _, following, health, _ = stage
    source.say(said(peer(1)), whole=True, refused=2)
    following.take()
    assert health.problems() == ("peers: peers.toml: peer[0]: is bad and 1 more: not applied",)
    source.say({})
    following.take()
    assert health.problems() == ()
