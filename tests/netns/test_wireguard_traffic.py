"""Packets through what was configured: sessions survive every change that is not about them."""

from __future__ import annotations

from dataclasses import replace

from jetplane.lab.waiting import patience
from jetplane.plan import RemovePeer, SetPeer
from tests.netns.wireguard_pair import Pair
from tests.netns.wireguard_tunnel import peer


def test_a_session_survives_every_change_that_is_not_about_it(pair: Pair) -> None:
    before = pair.handshake()
    pair.node.create()
    pair.node.configure()
    pair.node.apply([SetPeer(pair.subscriber)])
    pair.node.apply([SetPeer(replace(pair.subscriber, persistent_keepalive=20))])
    pair.node.apply([SetPeer(peer(n)) for n in range(100, 300)])
    pair.node.apply([RemovePeer(peer(n).public_key) for n in range(100, 300)])
    assert pair.reaches()
    assert pair.handshake() == before != "0"


def test_a_removed_peer_is_cut_off_and_can_come_back(pair: Pair) -> None:
    pair.node.apply([RemovePeer(pair.subscriber.public_key)])
    assert not pair.reaches(seconds=1)
    pair.node.apply([SetPeer(pair.subscriber)])
    pair.introduce()
    assert pair.reaches(seconds=patience(10))


def test_an_address_that_moved_to_another_peer_is_refused_to_its_old_owner(pair: Pair) -> None:
    pair.node.apply([SetPeer(replace(peer(7), allowed_ips=pair.subscriber.allowed_ips))])
    assert not pair.reaches(seconds=1)
    pair.node.apply([SetPeer(pair.subscriber)])
    assert pair.reaches()
