"""The judge against a definition so plain that it needs no state: by rank, first come, first served."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetplane import config
from jetplane.config import Config
from jetplane.model import InnerAddress, Peer, PublicKey, Rate
from jetplane.sources.judge import Judge, Reading, difference

CAPACITY = 4


def _config(capacity: int = CAPACITY, **plans: dict[str, int]) -> Config:
    tree = {
        "uplink": {"interface": "eth0"},
        "exit": {"ipv4": ["203.0.113.10"]},
        "tunnel": [{"name": "jet0", "listen_port": 1, "private_key_file": "k", "addresses": ["10.64.0.1/16"]}],
        "peers": {"path": "peers", "max": capacity},
        "plan": {"standard": {"up_mbit": 8}, **plans},
    }
    return config.parse(tree, Path("jetplane.toml"))


def _peer(key: int, *addresses: int) -> Peer:
    return Peer(
        PublicKey(key.to_bytes(32)),
        tuple(InnerAddress.parse(f"10.64.{number // 256}.{number % 256}") for number in addresses),
        rate=Rate(1_000_000, 0),
    )


def _place(rank: object) -> str:
    return f"record {rank}"


def _judge(settings: Config | None = None, own: frozenset[PublicKey] = frozenset()) -> Judge:
    return Judge(settings or _config(), own, _place)


def _by_definition(held: dict[int, tuple[int, Peer | None]], capacity: int) -> dict[PublicKey, Peer]:
    claimed: set[bytes] = set()
    chosen: list[Peer] = []
    for _, peer in sorted(held.values(), key=lambda item: item[0]):
        if peer is None or claimed & {peer.public_key, *peer.allowed_ips}:
            continue
        claimed |= {peer.public_key, *peer.allowed_ips}
        chosen.append(peer)
    return {peer.public_key: peer for peer in chosen[:capacity]}


Operation = tuple[str, int, int, Peer | None]
PEERS = st.builds(_peer, st.integers(1, 6), *[st.integers(2, 9)] * 2) | st.builds(_peer, st.integers(1, 6))
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "put", "drop"]), st.integers(0, 7), st.integers(0, 40), st.none() | PEERS)
    | st.just(("settle", 0, 0, None)),
    max_size=30,
)


@settings(max_examples=400, deadline=None)
@given(OPERATIONS, st.integers(1, 6))
def test_any_history_ends_as_the_definition_says(
    operations: list[tuple[str, int, int, Peer | None]], room: int
) -> None:
    judge, held = _judge(_config(room)), {}
    followed: dict[PublicKey, Peer] = {}
    for what, slot, rank, peer in [*operations, ("settle", 0, 0, None)]:
        if what == "put" and rank not in {r for s, (r, _) in held.items() if s != slot}:
            usable = peer if peer and peer.allowed_ips else None
            held[slot] = (rank, usable)
            judge.put(slot, rank, Reading(peer, reason="unreadable"))
        elif what == "drop":
            held.pop(slot, None)
            judge.drop(slot)
        elif what == "settle":
            for key, change in judge.settle().items():
                assert followed.get(key) != change, "only what differs is told"
                if change is None:
                    del followed[key]
                else:
                    followed[key] = change
            assert followed == judge.in_force() == _by_definition(held, room)
            assert judge.refusals().total == len(held) - len(followed)
            assert len(judge) == len(held)


STRANGER = Peer(PublicKey(bytes(32)), (InnerAddress.parse("192.0.2.1"),))


@pytest.mark.parametrize(
    ("reading", "kind", "reason"),
    [
        (Reading(None, reason="Object missing required field"), "record", "Object missing required field"),
        (Reading(_peer(1, 2), plan="gold"), "plan", "plan = 'gold': expected one of standard"),
        (Reading(_peer(1, 2), plan="A" * 43), "plan", "plan: expected one of standard"),
        (Reading(_peer(1, 1)), "address", "allowed_ips: is the node's own address on jet0"),
        (Reading(STRANGER), "address", "allowed_ips: in no tunnel's prefix"),
        (Reading(_peer(9, 2)), "own_key", "public_key: is the node's own"),
        (Reading(_peer(5, 2)), "duplicate", "public_key: also owned by record 0"),
        (Reading(_peer(1, 5)), "duplicate", "allowed_ips: also owned by record 0"),
    ],
)
def test_a_bad_record_is_refused_and_the_others_stand(reading: Reading, kind: str, reason: str) -> None:
    judge = _judge(own=frozenset({PublicKey((9).to_bytes(32))}))
    judge.put("good", 0, Reading(_peer(5, 5)))
    judge.put("bad", 1, reading)
    assert set(judge.settle()) == {_peer(5).public_key}
    refusal = judge.refusals().first[0]
    assert (refusal.kind, refusal.place, refusal.reason) == (kind, "record 1", reason)
    assert dict(judge.refusals().counts) == {kind: 1}
    judge.drop("bad")
    assert judge.settle() == {}
    assert judge.refusals().total == 0


def test_who_waited_for_an_address_gets_it_when_it_is_free() -> None:
    judge = _judge()
    for rank, peer in enumerate((_peer(1, 2), _peer(2, 2), _peer(3, 2))):
        judge.put(rank, rank, Reading(peer))
    judge.settle()
    judge.drop(0)
    assert judge.settle() == {_peer(1).public_key: None, _peer(2).public_key: _peer(2, 2)}
    assert str(judge.refusals().first[0]) == "record 2: allowed_ips: also owned by record 1"


def test_new_terms_are_applied_to_what_is_held() -> None:
    judge = _judge(_config(fast={"up_mbit": 16}))
    judge.put(1, 1, Reading(_peer(1, 2)))
    judge.put(2, 2, Reading(_peer(2, 3), plan="fast"))
    judge.put(3, 3, Reading(_peer(3, 4)))
    judge.settle()
    own = frozenset({_peer(3).public_key})
    judge.follow(_config(fast={"up_mbit": 24}), own)
    changed = judge.settle()
    assert changed.keys() == {_peer(2).public_key, _peer(3).public_key}
    assert changed[_peer(3).public_key] is None
    fast = changed[_peer(2).public_key]
    assert fast
    assert fast.rate == Rate(3_000_000, 0)
    judge.follow(_config(), frozenset())
    assert judge.settle() == {_peer(2).public_key: None, _peer(3).public_key: _peer(3, 4)}


def test_a_difference_says_what_came_changed_and_went() -> None:
    one, other, moved = _peer(1, 2), _peer(2, 3), _peer(2, 4)
    before, after = {one.public_key: one, other.public_key: other}, {moved.public_key: moved}
    assert difference(before, after) == {one.public_key: None, moved.public_key: moved}
    assert difference(after, after) == {}
