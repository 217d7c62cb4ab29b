"""Who is wanted: the source's word, expiry by the wall clock, and forgotten keys."""

from __future__ import annotations

import gc
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetplane.alarm import Alarm
from jetplane.model import InnerAddress, Peer, PublicKey
from jetplane.readable import readable
from jetplane.roster import Roster

NOW = 1_000_000


def peer(number: int, expires_at: int | None = None) -> Peer:
    return Peer(PublicKey(bytes([number]) * 32), (InnerAddress.parse(f"10.64.0.{number + 1}"),), expires_at=expires_at)


def said(*peers: Peer) -> dict[PublicKey, Peer]:
    return {one.public_key: one for one in peers}


@pytest.fixture
def roster() -> Roster:
    return Roster(bytes(32))


def test_a_whole_change_is_told_as_what_differs(roster: Roster) -> None:
    assert roster.take(whole=True, peers=said(peer(1), peer(2)), now=NOW) == said(peer(1), peer(2))
    faster = replace(peer(2), persistent_keepalive=25)
    delta = roster.take(whole=True, peers=said(faster, peer(3)), now=NOW)
    assert delta == {peer(1).public_key: None, **said(faster, peer(3))}
    assert roster.take(whole=True, peers=said(faster, peer(3)), now=NOW) == {}


def test_a_peer_expires_at_its_second_and_is_not_put_back_by_the_same_record(roster: Roster) -> None:
    roster.take(whole=True, peers=said(peer(1, NOW + 2), peer(2)), now=NOW)
    assert roster.due() == NOW + 2
    assert roster.expire(NOW + 1.9) == {}
    assert roster.expire(NOW + 2) == {peer(1).public_key: None}
    assert roster.due() is None
    assert roster.take(whole=True, peers=said(peer(1, NOW + 2), peer(2)), now=NOW + 3) == {}
    assert dict(roster.wanted) == said(peer(2))


def test_a_record_that_has_expired_already_is_not_applied(roster: Roster) -> None:
    assert roster.take(whole=True, peers=said(peer(1, NOW)), now=NOW) == {}
    assert not roster.wanted


def test_a_longer_term_moves_the_expiry(roster: Roster) -> None:
    roster.take(whole=True, peers=said(peer(1, NOW + 2)), now=NOW)
    roster.take(whole=False, peers=said(peer(1, NOW + 50)), now=NOW)
    assert roster.due() == NOW + 50
    assert roster.expire(NOW + 10) == {}


def test_a_clock_that_was_ahead_and_is_set_back_returns_who_expired_too_early(roster: Roster) -> None:
    roster.take(whole=True, peers=said(peer(1, NOW + 2)), now=NOW)
    assert roster.expire(NOW + 1000) == {peer(1).public_key: None}
    assert roster.expire(NOW) == said(peer(1, NOW + 2))
    assert roster.due() == NOW + 2


def test_a_forgotten_key_stays_away_until_the_source_says_otherwise(roster: Roster) -> None:
    key = peer(1).public_key
    roster.take(whole=True, peers=said(peer(1), peer(2)), now=NOW)
    assert roster.forget(key) == ({key: None}, True)
    assert roster.take(whole=True, peers=said(peer(1), peer(2)), now=NOW) == {}, "it said nothing new"
    assert roster.held == 1
    assert roster.take(whole=False, peers=said(peer(1)), now=NOW) == said(peer(1)), "it named the key again"
    assert roster.held == 0
    roster.forget(key)
    roster.take(whole=True, peers=said(peer(2)), now=NOW)
    assert roster.held == 0, "the source forgot it too"
    assert roster.take(whole=True, peers=said(peer(1), peer(2)), now=NOW) == said(peer(1))


def test_a_restricted_peer_is_cut_off_kept_and_back_when_the_restriction_is_lifted(roster: Roster) -> None:
    bound = replace(peer(1), restricted=True)
    roster.take(whole=True, peers=said(peer(1), peer(2)), now=NOW)
    assert roster.take(whole=False, peers=said(bound), now=NOW) == {peer(1).public_key: None}
    assert dict(roster.wanted) == said(peer(2))
    assert list(roster.restricted) == [bound]
    assert roster.expire(NOW) == {}, "time alone lifts nothing"
    assert roster.take(whole=True, peers=said(bound, peer(2)), now=NOW) == {}
    assert roster.take(whole=False, peers=said(peer(1)), now=NOW) == said(peer(1))
    assert list(roster.restricted) == []


def test_a_restricted_peer_that_its_source_drops_or_that_is_forgotten_is_not_kept(roster: Roster) -> None:
    bound = replace(peer(1), restricted=True)
    roster.take(whole=True, peers=said(bound, peer(2)), now=NOW)
    assert roster.take(whole=True, peers=said(peer(2)), now=NOW) == {}
    assert list(roster.restricted) == []
    roster.take(whole=False, peers=said(bound), now=NOW)
    assert roster.forget(bound.public_key) == ({bound.public_key: None}, True)
    assert list(roster.restricted) == []


def test_forgetting_a_stranger_cuts_it_off_and_holds_nothing(roster: Roster) -> None:
    """WireGuard may have it although no source does."""
    key = peer(1).public_key
    assert roster.forget(key) == ({key: None}, False)
    assert roster.held == 0


def test_nothing_in_the_roster_keeps_a_forgotten_key(roster: Roster) -> None:
    roster.take(whole=True, peers=said(peer(1, NOW + 9), peer(2, NOW + 9)), now=NOW)
    roster.forget(peer(1).public_key)
    assert not [o for o in gc.get_objects() if isinstance(o, Peer) and o.public_key == bytes([1]) * 32]
    assert [key for _, key in roster._due] == [peer(2).public_key]


TERMS = st.tuples(st.one_of(st.none(), st.integers(NOW - 3, NOW + 9)), st.booleans())
RECORDS = st.dictionaries(st.integers(0, 5), TERMS, max_size=6)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("whole"), RECORDS),
        st.tuples(st.just("part"), RECORDS),
        st.tuples(st.just("time"), st.integers(NOW, NOW + 12)),
        st.tuples(st.just("forget"), st.integers(0, 5)),
    ),
    max_size=12,
)


@given(CHANGES)
def test_the_deltas_add_up_to_what_is_wanted_and_nobody_in_it_is_out(changes: list[tuple[str, object]]) -> None:
    roster, now = Roster(bytes(32)), NOW
    applied: dict[PublicKey, Peer] = {}
    for kind, what in changes:
        if kind == "time":
            assert isinstance(what, int)
            now = what
            delta = roster.expire(now)
        elif kind == "forget":
            assert isinstance(what, int)
            delta, _ = roster.forget(peer(what).public_key)
        else:
            assert isinstance(what, dict)
            peers = said(*(replace(peer(n, at), restricted=bound) for n, (at, bound) in what.items()))
            delta = roster.take(whole=kind == "whole", peers=peers, now=now)
        for key, one in delta.items():
            if one is None:
                applied.pop(key, None)
            else:
                applied[key] = one
        roster.expire(now)
        assert applied == dict(roster.wanted)
        assert all(one.expires_at is None or one.expires_at > now for one in applied.values())
        assert not any(one.restricted for one in applied.values())


def test_the_alarm_rings_at_the_second_of_the_wall_clock() -> None:
    with Alarm() as alarm:
        at = int(time.time()) + 1
        alarm.set(at)
        assert not readable(alarm, 0)
        assert readable(alarm, 5)
        assert at <= time.time() < at + 0.5
        assert not alarm.take()
        assert not readable(alarm, 0), "it is quiet after it was heard"
        alarm.set(1)
        assert readable(alarm, 1), "a time that has passed"
        alarm.set(None)
        assert not readable(alarm, 0)
