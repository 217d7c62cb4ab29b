"""Idle peers are forgotten: where they were, when and how much; and they can come back at once."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from jetplane.errors import BackendError
from jetplane.lab.waiting import patience, pause
from jetplane.model import Peer, PresharedKey, PublicKey
from jetplane.plan import DiscardEndpoint, MoveAddresses, RemovePeer, SetPeer, plan_eviction
from jetplane.wireguard.idle import DISCARD_TEXT, Limits
from jetplane.wireguard.sweep import BATCH, Sweeper
from tests.netns.wireguard_pair import NODE, Pair, public_key
from tests.netns.wireguard_tunnel import PORT, Tunnel, as_wg_says, peer

SOON = Limits(stale_s=0.0, grace_s=0.2, every_s=0.1)
"""Everybody whom nothing comes from for two tenths of a second is idle."""

ENDPOINT, HANDSHAKE, RECEIVED, SENT = 2, 4, 5, 6
"""Fields of a line of `wg show NAME dump`."""


@contextmanager
def sweeping(tunnel: Tunnel, limits: Limits) -> Iterator[Sweeper]:
    sweeper = Sweeper(tunnel.backend.kind, tunnel.name, limits)
    try:
        yield sweeper
    finally:
        sweeper.close()


def sweep(tunnel: Tunnel, wanted: dict[PublicKey, Peer], *, limits: Limits = SOON, until: int = 1) -> list[int]:
    """Evict until so many are, and return the sizes of the batches."""
    sizes: list[int] = []
    deadline = time.monotonic() + patience(20)
    with sweeping(tunnel, limits) as sweeper:
        while sum(sizes) < until:
            assert time.monotonic() < deadline, f"evicted only {sizes}"
            if keys := tunnel.inside(sweeper.take):
                tunnel.apply(plan_eviction(keys, wanted))
                sizes.append(len(keys))
            pause()
    return sizes


def assert_forgotten(tunnel: Tunnel, key: PublicKey) -> None:
    fields = tunnel.dump()[1][key.text()]
    assert [fields[n] for n in (ENDPOINT, HANDSHAKE, RECEIVED, SENT)] == ["(none)", "0", "0", "0"]


def test_an_idle_peer_is_forgotten_and_comes_back_at_once(pair: Pair) -> None:
    wanted = replace(pair.subscriber, preshared_key=PresharedKey(bytes(range(32))), persistent_keepalive=21)
    key = wanted.public_key
    pair.node.apply([SetPeer(wanted)])
    before = pair.node.dump()[1][key.text()]
    assert before[ENDPOINT].startswith("192.0.2.2:"), "the control: it was known where the peer is"
    assert before[HANDSHAKE] != "0"
    pair.client.run("ip", "link", "set", pair.client.name, "down")
    sweep(pair.node, {key: wanted})
    assert_forgotten(pair.node, key)
    after = pair.node.dump()[1][key.text()]
    assert (after[1], after[3], after[7]) == (before[1], before[3], before[7]), "preshared key, allowed IPs, keepalive"
    pair.node.apply([SetPeer(replace(wanted, preshared_key=PresharedKey(bytes(32))))])
    pair.client.run("ip", "link", "set", pair.client.name, "up")
    pair.introduce()
    assert pair.reaches(seconds=patience(5))


def test_a_live_session_and_a_peer_never_seen_are_left_alone(pair: Pair) -> None:
    pair.node.apply([SetPeer(peer(1))])
    before = pair.handshake()
    with sweeping(pair.node, Limits(grace_s=0.1, every_s=0.1)) as sweeper:
        deadline = time.monotonic() + min(patience(1), 5)
        while time.monotonic() < deadline:
            assert pair.node.inside(sweeper.take) == ()
            pause()
    assert pair.handshake() == before
    assert pair.reaches()


def recorded_initiation(pair: Pair) -> bytes:
    """Have the client begin a handshake with nobody, and return what it sent: message 1, 148 bytes."""
    with pair.client.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(patience(10))
        key = public_key(pair.node)
        pair.client.apply([RemovePeer(key), SetPeer(Peer(key, peer(0, NODE).allowed_ips[-1:]))])
        pair.client.wg("peer", key.text(), "endpoint", f"127.0.0.1:{listener.getsockname()[1]}")
        pair.reaches(seconds=1)
        message = listener.recv(2048)
    assert (message[0], len(message)) == (1, 148)
    return message


def answered(attacker: socket.socket, message: bytes, seconds: float) -> bool:
    """Whether the node answers with message 2."""
    attacker.settimeout(seconds)
    attacker.sendto(message, ("192.0.2.1", PORT))
    with suppress(TimeoutError):
        return attacker.recv(2048)[0] == 2
    return False


def test_a_half_open_handshake_is_forgotten_and_its_replay_after_that_too(pair: Pair) -> None:
    """What sweep.py states: a recorded initiation is answered once after each eviction, and leads nowhere."""
    wanted = {pair.subscriber.public_key: pair.subscriber}
    key = pair.subscriber.public_key
    message = recorded_initiation(pair)
    pair.node.apply([RemovePeer(key), SetPeer(pair.subscriber)])
    with pair.client.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as attacker:
        attacker.bind(("192.0.2.2", 0))
        for _ in range(2):
            assert answered(attacker, message, patience(5))
            fields = pair.node.dump()[1][key.text()]
            assert (fields[ENDPOINT], fields[HANDSHAKE]) == (f"192.0.2.2:{attacker.getsockname()[1]}", "0")
            assert not answered(attacker, message, 0.3), "a second time, before the eviction, it is refused"
            sweep(pair.node, wanted, limits=replace(SOON, stale_s=180))
            assert_forgotten(pair.node, key)
    pair.introduce()
    assert pair.reaches(seconds=patience(10))


def test_hundreds_are_evicted_in_bounded_batches_and_the_others_are_not_touched(tunnel: Tunnel, tmp_path: Path) -> None:
    count = 3 * BATCH + 7
    peers = {(p := peer(n)).public_key: p for n in range(1, count + 20)}
    tunnel.configure()
    tunnel.apply([SetPeer(p) for p in peers.values()])
    idle = list(peers.values())[:count]
    seen = tmp_path / "seen.conf"
    seen.write_text("".join(f"[Peer]\nPublicKey={p.public_key.text()}\nEndpoint=192.0.2.9:9\n" for p in idle))
    tunnel.run("wg", "addconf", tunnel.name, seen)
    tunnel.apply([SetPeer(p) for p in idle])
    assert sum(fields[ENDPOINT] != "(none)" for fields in tunnel.dump()[1].values()) == count
    sizes = sweep(tunnel, peers, until=count)
    assert sum(sizes) == count
    assert max(sizes) == BATCH
    assert {fields[ENDPOINT] for fields in tunnel.dump()[1].values()} == {"(none)"}
    assert tunnel.peers() == as_wg_says(list(peers.values()))


def test_an_idle_peer_that_is_not_wanted_goes(tunnel: Tunnel) -> None:
    tunnel.apply([SetPeer(peer(1)), SetPeer(peer(2))])
    tunnel.wg("peer", peer(1).public_key.text(), "endpoint", "192.0.2.9:9")
    sweep(tunnel, {})
    assert tunnel.peers() == as_wg_says([peer(2)])


def test_an_endpoint_can_be_discarded_and_the_peer_is_still_found(tunnel: Tunnel) -> None:
    """A controller that ends between discarding and removing leaves nothing for good."""
    tunnel.apply([SetPeer(peer(1))])
    for endpoint in ("192.0.2.9:9", "[2001:db8::9]:9"):
        tunnel.wg("peer", peer(1).public_key.text(), "endpoint", endpoint)
        tunnel.apply([DiscardEndpoint(peer(1).public_key), DiscardEndpoint(peer(2).public_key)])
        assert tunnel.dump()[1][peer(1).public_key.text()][ENDPOINT] == DISCARD_TEXT.decode()
    assert tunnel.peers() == as_wg_says([peer(1)]), "and nobody is added"
    sweep(tunnel, {peer(1).public_key: peer(1)})
    assert_forgotten(tunnel, peer(1).public_key)


def test_addresses_move_from_peer_to_peer_and_to_nobody_who_is_not_there(tunnel: Tunnel) -> None:
    tunnel.apply([SetPeer(peer(1, "10.9.9.9")), SetPeer(peer(2))])
    moved = peer(1, "10.9.9.9").allowed_ips[-1:]
    tunnel.apply([MoveAddresses(peer(3).public_key, moved)])
    assert tunnel.peers() == as_wg_says([peer(1, "10.9.9.9"), peer(2)])
    tunnel.apply([MoveAddresses(peer(2).public_key, moved)])
    assert tunnel.peers() == as_wg_says([peer(1), peer(2, "10.9.9.9")])


def test_nothing_but_keys_leaves_the_process_that_looks(tunnel: Tunnel) -> None:
    tunnel.apply([SetPeer(peer(1)), SetPeer(peer(2))])
    tunnel.wg("peer", peer(1).public_key.text(), "endpoint", "192.0.2.77:4567")
    arguments = [tunnel.backend.kind, tunnel.name, "180", "0.1", "9"]
    command = [sys.executable, "-m", "jetplane.wireguard.look", *arguments]
    child = tunnel.inside(lambda: subprocess.run(command, capture_output=True, check=True))
    assert (child.stdout, child.stderr) == (bytes(4) + peer(1).public_key, b"")


def test_a_look_at_nothing_says_so_and_is_made_again_later(tunnel: Tunnel) -> None:
    tunnel.delete()

    def until_it_fails() -> None:
        deadline = time.monotonic() + patience(20)
        while time.monotonic() < deadline:
            tunnel.inside(sweeper.take)
            pause()

    with sweeping(tunnel, SOON) as sweeper:
        for _ in range(2):
            with pytest.raises(BackendError, match=f"{tunnel.name}: looking for idle peers"):
                until_it_fails()
