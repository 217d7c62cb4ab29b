"""The pure middle: random wanted and observed states converge, and nothing is ever owned twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetplane import abi
from jetplane.errors import PeerError
from jetplane.held import Held
from jetplane.indices import FreeIndices
from jetplane.model import InnerAddress, ObservedPeer, Peer, PresharedKey, PublicKey, Rate
from jetplane.plan import (
    NO_PRESHARED_KEY,
    DiscardEndpoint,
    Entry,
    EntryPlan,
    EntryStep,
    MoveAddresses,
    PeerStep,
    RemoveEntry,
    RemovePeer,
    SetEntry,
    SetPeer,
    changing_hands,
    choose_exit,
    plan_eviction,
    plan_peers,
)
from jetplane.plan import plan_entries as planned_entries
from jetplane.plan import plan_some_entries as planned_some_entries

NO_EXIT = abi.constants()["NO_EXIT"]
CAPACITY = 24

keys = st.integers(0, 11).map(lambda n: PublicKey(bytes([n]) * 32))
secrets = st.none() | st.integers(1, 3).map(lambda n: PresharedKey(bytes([n]) * 32))


def _address(number: int) -> InnerAddress:
    return InnerAddress(bytes(10) + b"\xff\xff\x0a\x40" + number.to_bytes(2))


@st.composite
def wanted_peers(draw: st.DrawFn) -> dict[PublicKey, Peer]:
    """Peers whose addresses do not overlap, as records.wanted_by_tunnel guarantees."""
    chosen = draw(st.lists(keys, unique=True, max_size=10))
    pool = draw(st.permutations(range(20)))
    return {
        key: Peer(
            key,
            tuple(_address(n) for n in pool[2 * i : 2 * i + draw(st.integers(1, 2))]),
            draw(secrets),
            draw(st.integers(0, 2)),
            Rate(up=draw(st.integers(0, 2))),
        )
        for i, key in enumerate(chosen)
    }


def _hold(peer: Peer, before: ObservedPeer | None) -> ObservedPeer:
    secret = peer.preshared_key
    kept = bool(before and before.has_preshared_key)
    return ObservedPeer(
        peer.public_key, peer.allowed_ips, peer.persistent_keepalive, kept if secret is None else any(secret)
    )


def _states(
    observed: dict[PublicKey, ObservedPeer], steps: tuple[PeerStep, ...]
) -> Iterator[dict[PublicKey, ObservedPeer]]:
    """What WireGuard does with the steps, one after the other: an allowed IP belongs to whom it was given last."""
    held = dict(observed)
    for step in steps:
        match step:
            case RemovePeer(key):
                del held[key]
            case SetPeer(peer):
                _take(held, peer.allowed_ips)
                held[peer.public_key] = _hold(peer, held.get(peer.public_key))
            case MoveAddresses(key, addresses):
                _take(held, addresses)
                held[key] = replace(held[key], allowed_ips=held[key].allowed_ips + addresses)
            case DiscardEndpoint(key):
                assert key in held
        yield dict(held)


def _take(held: dict[PublicKey, ObservedPeer], addresses: tuple[InnerAddress, ...]) -> None:
    for key, other in held.items():
        held[key] = replace(other, allowed_ips=tuple(a for a in other.allowed_ips if a not in addresses))


def _wireguard(observed: dict[PublicKey, ObservedPeer], steps: tuple[PeerStep, ...]) -> dict[PublicKey, ObservedPeer]:
    """What it holds in the end."""
    return [observed, *_states(observed, steps)][-1]


def _owners(held: dict[PublicKey, ObservedPeer]) -> dict[InnerAddress, PublicKey]:
    return {address: key for key, peer in held.items() for address in peer.allowed_ips}


def _observe(wanted: dict[PublicKey, Peer]) -> dict[PublicKey, ObservedPeer]:
    return {key: _hold(peer, None) for key, peer in wanted.items()}


@given(wanted_peers(), wanted_peers(), st.booleans())
def test_applying_a_plan_of_peers_makes_the_next_plan_empty(
    before: dict[PublicKey, Peer], wanted: dict[PublicKey, Peer], remembered: bool
) -> None:
    observed = _observe(before)
    held = _wireguard(observed, plan_peers(wanted, observed, before if remembered else {}))
    assert plan_peers(wanted, held, wanted) == ()
    owned = [address for peer in held.values() for address in peer.allowed_ips]
    assert len(owned) == len(set(owned))
    assert {key: set(peer.allowed_ips) for key, peer in held.items()} == {
        key: set(peer.allowed_ips) for key, peer in wanted.items()
    }


@given(wanted_peers(), wanted_peers())
def test_an_address_that_moves_between_peers_that_stay_is_never_without_one_of_them(
    before: dict[PublicKey, Peer], wanted: dict[PublicKey, Peer]
) -> None:
    """From step to step; a gap of one message, when there is one, is WireGuard's own."""
    observed = _observe(before)
    was, will = _owners(observed), _owners(_observe(wanted))
    for held in _states(observed, plan_peers(wanted, observed, before)):
        for address, owner in _owners(held).items():
            assert owner in (was.get(address), will.get(address)), "a thief"
        for address, old in was.items():
            if old in wanted and address in will:
                assert _owners(held).get(address) in (old, will[address]), "a gap"


def test_two_peers_exchange_their_addresses_without_a_gap() -> None:
    one, two = Peer(PublicKey(b"1" * 32), (_address(1),)), Peer(PublicKey(b"2" * 32), (_address(2),))
    before = {one.public_key: one, two.public_key: two}
    after = {
        one.public_key: replace(one, allowed_ips=two.allowed_ips),
        two.public_key: replace(two, allowed_ips=one.allowed_ips),
    }
    assert plan_peers(after, _observe(before), before) == (
        MoveAddresses(one.public_key, two.allowed_ips),
        MoveAddresses(two.public_key, one.allowed_ips),
        *map(SetPeer, after.values()),
    )


def _changes(before: dict[PublicKey, Peer], wanted: dict[PublicKey, Peer]) -> dict[PublicKey, Peer | None]:
    gone: dict[PublicKey, Peer | None] = {key: None for key in before if key not in wanted}
    return gone | {key: peer for key, peer in wanted.items() if before.get(key) != peer}


@given(wanted_peers(), wanted_peers())
def test_a_plan_of_what_changed_does_what_a_whole_plan_does(
    before: dict[PublicKey, Peer], wanted: dict[PublicKey, Peer]
) -> None:
    held = Held(before)
    changed = _changes(before, wanted)
    part = {key: peer for key, peer in changed.items() if peer is not None}
    seen = {key: held[key] for key in changed if key in held}
    steps = plan_peers(part, seen, held.peers)
    whole = plan_peers(wanted, dict(held), before)
    assert sorted(map(_name, steps)) == sorted(map(_name, whole))
    assert _owners(_wireguard(dict(held), steps)) == _owners(_observe(wanted))
    held.change(changed)
    assert plan_peers(wanted, held, held.peers) == ()
    assert held.peers == wanted


def _name(step: PeerStep) -> tuple[str, bytes]:
    return type(step).__name__, step.peer.public_key if isinstance(step, SetPeer) else step.public_key


@given(wanted_peers(), wanted_peers())
def test_what_was_observed_is_held_without_a_second_copy(
    before: dict[PublicKey, Peer], observed: dict[PublicKey, Peer]
) -> None:
    held = Held(before)
    seen = _observe(observed)
    held.compare(seen.values())
    assert dict(held) == seen
    assert len(held) == len(seen)
    assert held.as_set == (_observe(before) == seen)
    assert plan_peers(before, held, held.peers) == plan_peers(before, seen, before)


@given(wanted_peers(), wanted_peers())
def test_what_another_process_had_set_is_held_as_it_is_observed(
    wanted: dict[PublicKey, Peer], observed: dict[PublicKey, Peer]
) -> None:
    seen = _observe(observed)
    held = Held.adopted(seen.values(), wanted)
    assert dict(held) == seen
    assert plan_peers(wanted, held, held.peers) == plan_peers(wanted, seen, {})


@given(wanted_peers(), st.sets(keys))
def test_eviction_leaves_every_wanted_peer_as_it_was(wanted: dict[PublicKey, Peer], idle: set[PublicKey]) -> None:
    observed = _observe(wanted) | {key: ObservedPeer(key, ()) for key in idle - wanted.keys()}
    steps = plan_eviction(tuple(idle), wanted)
    discards = [isinstance(step, DiscardEndpoint) for step in steps]
    assert discards == sorted(discards, reverse=True)
    assert discards.count(True) == len(idle)
    assert _wireguard(observed, steps) == _observe(wanted)
    for n, step in enumerate(steps):
        if isinstance(step, RemovePeer) and step.public_key in wanted:
            assert steps[n + 1] == SetPeer(wanted[step.public_key])


@given(wanted_peers(), wanted_peers())
def test_removals_come_first(before: dict[PublicKey, Peer], wanted: dict[PublicKey, Peer]) -> None:
    kinds = [type(step) for step in plan_peers(wanted, _observe(before), {})]
    assert kinds == sorted(kinds, key=lambda kind: kind is not RemovePeer)


def _peer(secret: PresharedKey | None) -> Peer:
    return Peer(PublicKey(bytes(32)), (_address(1),), secret)


def test_a_changed_preshared_key_is_set_though_it_cannot_be_read_back() -> None:
    old, new = _peer(PresharedKey(b"a" * 32)), _peer(PresharedKey(b"b" * 32))
    key = old.public_key
    assert plan_peers({key: new}, _observe({key: old}), {key: old}) == (SetPeer(new),)
    assert plan_peers({key: old}, _observe({key: old}), {key: old}) == ()


def test_a_withdrawn_preshared_key_is_removed() -> None:
    old, new = _peer(PresharedKey(b"a" * 32)), _peer(None)
    assert plan_peers({new.public_key: new}, _observe({old.public_key: old}), {}) == (
        SetPeer(replace(new, preshared_key=NO_PRESHARED_KEY)),
    )


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    pool = draw(st.permutations(range(20)))
    return [
        Entry(
            tuple(sorted(_address(n) for n in pool[2 * i : 2 * i + draw(st.integers(1, 2))])),
            draw(st.integers(5, 6)),
            (draw(st.integers(0, 1)), draw(st.sampled_from((2, 3, NO_EXIT)))),
            Rate(up=draw(st.integers(0, 1))),
        )
        for i in range(draw(st.integers(0, 10)))
    ]


def _by_address(wanted: list[Entry]) -> dict[InnerAddress, Entry]:
    return {entry.addresses[0]: entry for entry in wanted}


def _steps(plan: EntryPlan, observed: dict[int, Entry]) -> tuple[EntryStep, ...]:
    assert all(observed[index].addresses == addresses for index, addresses in plan.ends.items())
    steps: tuple[EntryStep, ...] = (*map(RemoveEntry, plan.ends), *plan.gives)
    assert len(steps) == plan.count
    return steps


def plan_entries(
    wanted: list[Entry], observed: dict[int, Entry], capacity: int, changing: frozenset[InnerAddress] = frozenset()
) -> tuple[EntryStep, ...]:
    """The plan as steps; what is free afterwards is exactly what nobody has."""
    plan = planned_entries(_by_address(wanted), observed.items(), capacity, changing)
    steps = _steps(plan, observed)
    taken = (observed.keys() - plan.ends.keys()) | {step.index for step in steps if isinstance(step, SetEntry)}
    assert sorted(plan.free) == sorted(set(range(capacity)) - taken)
    return steps


def _dataplane(observed: dict[int, Entry], steps: tuple[EntryStep, ...]) -> dict[int, Entry]:
    held = dict(observed)
    for step in steps:
        match step:
            case RemoveEntry(index):
                del held[index]
            case SetEntry(index, entry):
                assert 0 <= index < CAPACITY
                held[index] = entry
        owned = [address for entry in held.values() for address in entry.addresses]
        assert len(owned) == len(set(owned)), "an address had two owners on the way"
    return held


@given(entries(), entries())
def test_applying_a_plan_of_entries_makes_the_next_plan_empty(before: list[Entry], wanted: list[Entry]) -> None:
    observed = _dataplane({}, plan_entries(before, {}, CAPACITY))
    held = _dataplane(observed, plan_entries(wanted, observed, CAPACITY))
    assert plan_entries(wanted, held, CAPACITY) == ()
    assert sorted(e.addresses for e in held.values()) == sorted(e.addresses for e in wanted)


@given(entries())
def test_a_live_entry_keeps_its_index_and_exit_addresses(before: list[Entry]) -> None:
    observed = _dataplane({}, plan_entries(before, {}, CAPACITY))
    moved = [
        replace(
            e, exit_index=(1 - e.exit_index[0], e.exit_index[1] if e.exit_index[1] == NO_EXIT else 5 - e.exit_index[1])
        )
        for e in before
    ]
    assert plan_entries(moved, observed, CAPACITY) == ()


@given(entries(), entries(), st.sets(st.integers(0, 19)))
def test_what_changes_hands_ends_and_begins_anew(before: list[Entry], wanted: list[Entry], numbers: set[int]) -> None:
    changing = frozenset(map(_address, numbers))
    observed = _dataplane({}, plan_entries(before, {}, CAPACITY))
    steps = plan_entries(wanted, observed, CAPACITY, changing)
    held = _dataplane(observed, steps)
    removed = {step.index for step in steps if isinstance(step, RemoveEntry)}
    for index, entry in observed.items():
        if not changing.isdisjoint(entry.addresses):
            assert index in removed
    assert plan_entries(wanted, held, CAPACITY) == ()


@given(entries(), entries(), st.data())
def test_a_plan_of_some_entries_does_what_a_whole_plan_does(
    before: list[Entry], wanted: list[Entry], data: st.DataObject
) -> None:
    """The rest of the data plane is not even looked at."""
    observed = _dataplane({}, plan_entries(before, {}, CAPACITY))
    claimed = {address for entry in wanted for address in entry.addresses}
    rest = {i: e for i, e in observed.items() if claimed.isdisjoint(e.addresses) and data.draw(st.booleans())}
    theirs = {index: entry for index, entry in observed.items() if index not in rest}
    free = FreeIndices(bytearray(index in observed for index in range(CAPACITY)))
    plan = planned_some_entries(_by_address(wanted), theirs.items(), free)
    held = _dataplane(observed, _steps(plan, theirs))
    assert plan_entries([*wanted, *rest.values()], held, CAPACITY) == ()
    assert sorted(plan.free) == sorted(set(range(CAPACITY)) - held.keys())


@given(wanted_peers(), wanted_peers())
def test_what_a_removed_peer_had_and_what_another_takes_changes_hands(
    before: dict[PublicKey, Peer], wanted: dict[PublicKey, Peer]
) -> None:
    observed = _observe(before)
    was, will = _owners(observed), _owners(_observe(wanted))
    changing = changing_hands(plan_peers(wanted, observed, before), observed)
    assert changing == {address for address, owner in was.items() if will.get(address) != owner}


def test_a_free_index_comes_back_after_all_others() -> None:
    free = FreeIndices(bytearray((1, 0, 1, 0, 0)))
    assert free.take() == 3
    free.give(0)
    assert [free.take() for _ in range(3)] == [4, 1, 0]
    free.give(3)
    assert ([*free], len(free)) == ([3], 1)


def test_more_peers_than_there_is_room_for_are_refused_before_anything_is_done() -> None:
    entries = {_address(n): Entry((_address(n),), 5, (0, NO_EXIT)) for n in range(3)}
    with pytest.raises(PeerError, match="room for 2"):
        planned_entries(entries, (), 2)


def test_an_index_just_freed_is_taken_last() -> None:
    observed = {0: Entry((_address(1),), 5, (0, NO_EXIT)), 1: Entry((_address(2),), 5, (0, NO_EXIT))}
    new = [Entry((_address(n),), 5, (0, NO_EXIT)) for n in (1, 3, 4)]
    assert plan_entries(new, observed, 3) == (RemoveEntry(1), SetEntry(2, new[1]), SetEntry(1, new[2]))


def test_the_exit_of_a_key_depends_on_the_nodes_secret() -> None:
    peers = [PublicKey(bytes([n]) * 32) for n in range(200)]
    one, other = ([choose_exit(key, secret * 32, range(8)) for key in peers] for secret in (b"a", b"b"))
    assert set(one) == set(range(8))
    same = sum(a == b for a, b in zip(one, other, strict=True))
    assert 5 < same < 50, "an eighth should agree by chance"
    assert choose_exit(peers[0], b"a" * 32, range(0)) is None
