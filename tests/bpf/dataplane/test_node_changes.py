"""A change of some peers: it reaches WireGuard and the data plane together, and nothing else is looked at."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from statistics import median

import pytest

from jetplane.dataplane.node import DataPlane
from jetplane.errors import BackendError, PeerError
from jetplane.lab.waiting import patience, slowness
from jetplane.model import InnerAddress, Peer, PresharedKey, PublicKey, Rate
from jetplane.node import Applied, Node
from jetplane.plan import PeerStep
from jetplane.wireguard import observe
from jetplane.wireguard.idle import DISCARD_TEXT
from jetplane.wireguard.interface import Kind
from tests.bpf.dataplane.conftest import ConfigFactory

MANY = 2_000 if slowness() < 3 else 200
CPU_S = 0.020


def address(number: int) -> InnerAddress:
    return InnerAddress(bytes(10) + b"\xff\xff\x0a\x40" + number.to_bytes(2))


def peer(number: int, *addresses: int) -> Peer:
    return Peer(PublicKey(sha256(b"%d" % number).digest()), tuple(map(address, addresses or (number,))))


@dataclass
class World:
    """A node with its tunnel, and what is wanted of it so far."""

    node: Node
    tunnel: str
    wanted: dict[PublicKey, Peer]

    def change(self, *peers: Peer, gone: tuple[Peer, ...] = ()) -> Applied:
        changed: dict[PublicKey, Peer | None] = {p.public_key: None for p in gone} | {p.public_key: p for p in peers}
        applied = self.node.apply_change(changed)
        for key, one in changed.items():
            self.wanted.pop(key, None)
            self.wanted |= {key: one} if one else {}
        return applied

    def reconcile(self) -> Applied:
        return self.node.reconcile({self.tunnel: self.wanted})

    def index(self, number: int) -> int:
        return int(self.node.dataplane._map("addresses").lookup(bytes(address(number))).value)

    def generation(self, index: int) -> int:
        return int(self.node.dataplane._map("peers").lookup(index).generation)


@pytest.fixture
def world(
    dataplane: DataPlane, configure: ConfigFactory, unique: Callable[[str], str], tmp_path: Path, wireguard_kind: Kind
) -> Iterator[World]:
    name, key = unique("t"), tmp_path / "key"
    key.touch(mode=0o600)
    key.write_bytes(subprocess.check_output(["wg", "genkey"]))
    tunnel = {"name": name, "listen_port": 51820, "private_key_file": str(key), "addresses": ["10.64.0.1/16"]}
    node = Node(configure(tunnel=[tunnel], peers={"max": MANY + 50}, run_directory=str(tmp_path)))
    try:
        node.bring_up()
        node.observe()
        world = World(node, name, {})
        world.wanted = {p.public_key: p for p in (peer(n) for n in range(2, 12))}
        assert world.reconcile() == Applied(10, 10)
        yield world
    finally:
        node.close()
        node.wireguard.delete(name)
        node.dataplane.detach()


def assert_nothing_left_to_do(world: World) -> None:
    """The law: after the short way, the long way finds nothing."""
    world.node.observe()
    assert world.reconcile() == Applied(0, 0)


def test_shards_are_interfaces_with_one_key_and_plain_routes(
    dataplane: DataPlane, configure: ConfigFactory, unique: Callable[[str], str], tmp_path: Path, wireguard_kind: Kind
) -> None:
    key, name = tmp_path / "key", unique("s")
    key.touch(mode=0o600)
    key.write_bytes(subprocess.check_output(["wg", "genkey"]))
    tunnel = {"listen_port": 51820, "private_key_file": str(key), "addresses": ["10.64.0.1/16"], "shards": 2}
    node = Node(configure(tunnel=[{"name": f"{name}x0", **tunnel}], run_directory=str(tmp_path)))
    one, two = (t.name for t in node.config.tunnel)
    try:
        node.bring_up()
        node.observe()
        lower, upper = peer(2), peer(0x8002)
        node.reconcile({one: {lower.public_key: lower}, two: {}})
        node.apply_change({upper.public_key: upper})
        assert [said("wg", "show", one, "peers"), said("wg", "show", two, "peers")] == [
            lower.public_key.text(),
            upper.public_key.text(),
        ]
        assert said("wg", "show", one, "public-key") == said("wg", "show", two, "public-key")
        assert f"dev {one} " in said("ip", "route", "get", "10.64.0.2")
        assert f"dev {two} " in said("ip", "route", "get", "10.64.128.2")
    finally:
        for shard in (one, two):
            node.wireguard.delete(shard)
        node.dataplane.detach()


def said(*command: str) -> str:
    return subprocess.check_output(command, text=True).strip()


SECRET = PresharedKey(b"s" * 32)

CHANGES = (
    ("a new peer", (peer(20),), (), Applied(1, 1)),
    ("a peer gone", (), (peer(2),), Applied(1, 1)),
    ("another rate", (replace(peer(2), rate=Rate(up=1)),), (), Applied(0, 1)),
    ("a keepalive", (replace(peer(2), persistent_keepalive=5),), (), Applied(1, 0)),
    ("a preshared key", (replace(peer(2), preshared_key=SECRET),), (), Applied(1, 0)),
    ("an address more", (peer(2, 2, 30),), (), Applied(1, 2)),
    ("an address from one that is gone", (peer(3, 2, 3),), (peer(2),), Applied(2, 3)),
    ("an address from one that stays", (peer(2, 30), peer(3, 2, 3)), (), Applied(3, 4)),
    ("two that exchange addresses", (peer(2, 3), peer(3, 2)), (), Applied(4, 4)),
    ("a new key for an address", (replace(peer(50), allowed_ips=(address(2),)),), (peer(2),), Applied(2, 2)),
    ("nothing new", (peer(2),), (), Applied(0, 0)),
    ("one gone that never was", (), (peer(99),), Applied(0, 0)),
)


def test_the_short_way_and_the_long_way_agree(world: World) -> None:
    start = dict(world.wanted)
    for what, changed, gone, applied in CHANGES:
        assert world.change(*changed, gone=gone) == applied, what
        assert_nothing_left_to_do(world)
        world.wanted = dict(start)
        world.reconcile()


def test_a_change_of_one_peer_looks_at_no_other_and_costs_little(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 ms of CPU are the promise for 100,000 peers; the number of peers must have no say."""
    world.wanted = {p.public_key: p for p in (peer(n) for n in range(2, MANY))}
    world.reconcile()

    def look(*_: object, **__: object) -> None:
        pytest.fail("it was looked at everything")

    with monkeypatch.context() as patched:
        patched.setattr(DataPlane, "observe", look)
        patched.setattr(observe, "start", look)
        costs = []
        for n in range(10):
            before = time.process_time()
            world.change(peer(MANY + n), replace(peer(2 + n), rate=Rate(down=n)), gone=(peer(500 + n),))
            costs.append(time.process_time() - before)
    assert median(costs) < CPU_S * max(1, slowness())
    assert_nothing_left_to_do(world)


@pytest.mark.parametrize(
    ("changed", "gone"),
    [((), (peer(2),)), ((replace(peer(50), allowed_ips=(address(2),)),), (peer(2),)), ((peer(2, 3), peer(3, 2)), ())],
    ids=["with the peer", "with a new key for its address", "with an exchange of addresses"],
)
def test_bindings_end_at_once(world: World, changed: tuple[Peer, ...], gone: tuple[Peer, ...]) -> None:
    """A binding lives by its peer's generation. A new owner of the address has nothing of the old one's."""
    index = world.index(2)
    before = world.generation(index)
    world.change(*changed, gone=gone)
    assert world.generation(index) > before
    assert not changed or world.index(2) != index


@pytest.mark.parametrize("short", [True, False], ids=["the short way", "the long way"])
def test_while_wireguard_changes_an_address_that_moves_leads_nowhere(
    world: World, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the new owner would get answers to the old one, and send through the old one's bindings."""
    apply, addresses = world.node.wireguard.apply, world.node.dataplane._map("addresses")
    seen: list[list[bool]] = []

    def watch(name: str, steps: Sequence[PeerStep]) -> None:
        seen.append([addresses.lookup(bytes(address(n))) is not None for n in (2, 3, 4)])
        apply(name, steps)

    monkeypatch.setattr(world.node.wireguard, "apply", watch)
    if short:
        world.change(peer(2, 3), peer(3, 2))
    else:
        world.wanted |= {p.public_key: p for p in (peer(2, 3), peer(3, 2))}
        world.reconcile()
    assert seen == [[False, False, True]]
    assert_nothing_left_to_do(world)


def test_the_same_in_the_long_way(world: World) -> None:
    """Also when another process had set the peers: whose an address was is told by WireGuard."""
    index = world.index(2)
    before = world.generation(index)
    again = Node(world.node.config)
    again.observe()
    taken = replace(peer(50), allowed_ips=(address(2),))
    del world.wanted[peer(2).public_key]
    world.wanted[taken.public_key] = taken
    assert again.reconcile({world.tunnel: world.wanted}) == Applied(2, 2)
    assert world.generation(index) > before
    assert world.index(2) != index


def test_a_restart_leaves_every_flow_alone(world: World) -> None:
    before = {n: (world.index(n), world.generation(world.index(n))) for n in range(2, 12)}
    again = Node(world.node.config)
    again.observe()
    assert again.reconcile({world.tunnel: world.wanted}) == Applied(0, 0)
    assert {n: (world.index(n), world.generation(world.index(n))) for n in range(2, 12)} == before


def test_an_address_that_another_keeps_is_refused_and_nothing_changes(world: World) -> None:
    for thief in (peer(60, 2), peer(3, 2, 3)):
        with pytest.raises(PeerError, match="belongs to a peer that keeps it"):
            world.node.apply_change({thief.public_key: thief, peer(7).public_key: None})
        assert_nothing_left_to_do(world)


def test_after_a_failure_only_a_whole_look_helps(world: World) -> None:
    """A revoked peer's flows end also when WireGuard does not answer."""
    index = world.index(2)
    before = world.generation(index)
    world.node.wireguard.delete(world.tunnel)
    with pytest.raises(BackendError, match=world.tunnel):
        world.change(gone=(peer(2),))
    assert world.generation(index) > before
    with pytest.raises(BackendError, match="not known"):
        world.change(peer(20))
    world.node.bring_up()
    world.node.observe()
    world.reconcile()
    world.change(peer(21))
    assert_nothing_left_to_do(world)


def test_idle_peers_are_evicted_also_while_nobody_has_said_who_is_wanted(world: World) -> None:
    """Who has a preshared key loses only the endpoint then: the secret cannot be read back, and so not be set again."""
    secret = replace(peer(20), preshared_key=SECRET)
    world.change(secret)
    for one in (peer(2), secret):
        subprocess.run(
            ["wg", "set", world.tunnel, "peer", one.public_key.text(), "endpoint", "192.0.2.9:9"], check=True
        )
    again = Node(world.node.config)
    try:
        again.observe()
        assert evicted(again, world.tunnel) == {DISCARD_TEXT.decode()}
    finally:
        again.close()
    assert_nothing_left_to_do(world)
    assert evicted(world.node, world.tunnel) == set()
    assert_nothing_left_to_do(world)


def evicted(node: Node, tunnel: str) -> set[str]:
    """The endpoints that are left when something has been evicted."""

    def endpoints() -> dict[str, str]:
        lines = subprocess.check_output(["wg", "show", tunnel, "endpoints"], text=True).splitlines()
        return {key: endpoint for key, endpoint in map(str.split, lines) if endpoint != "(none)"}

    before = endpoints()
    deadline = time.monotonic() + patience(20)
    while (left := endpoints()) == before:
        assert time.monotonic() < deadline
        node.evict()
        time.sleep(0.05)
    return set(left.values())


def test_removed_indices_are_used_again_last(world: World) -> None:
    index = world.index(2)
    world.change(gone=(peer(2),))
    world.change(peer(2))
    assert world.index(2) != index
    for _ in range(2 * (MANY + 50)):
        world.change(gone=(peer(2),))
        world.change(peer(2))
        if world.index(2) == index:
            break
    assert world.index(2) == index
