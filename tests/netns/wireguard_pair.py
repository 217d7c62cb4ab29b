"""A node's tunnel and a client's, joined by a veth, with a session between them.

client ── 10.64.0.2 ══ tunnel ══ 10.64.0.1 ── node       the tunnel runs over a veth, 192.0.2.2 ── 192.0.2.1
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jetplane.lab.waiting import patience
from jetplane.model import InnerAddress, Peer, PublicKey
from jetplane.plan import RemovePeer, SetPeer
from tests.netns.wireguard_tunnel import PORT, Tunnel, made

NODE, CLIENT = "10.64.0.1", "10.64.0.2"


@dataclass(frozen=True)
class Pair:
    node: Tunnel
    client: Tunnel
    subscriber: Peer  # the client, as the node wants it

    def introduce(self) -> None:
        """Tell the client of the node, as if for the first time: it would hold on to a dead session for 15 s."""
        key = public_key(self.node)
        self.client.apply([RemovePeer(key), SetPeer(Peer(key, (InnerAddress.parse(NODE),)))])
        self.client.wg("peer", key.text(), "endpoint", f"192.0.2.1:{PORT}")

    def reaches(self, *, seconds: float = 10) -> bool:
        """Whether one of the pings that are sent for so long is answered."""
        command = ["ping", "-n", "-q", "-i", "0.2", "-c", "1", "-w", str(int(seconds)), NODE]
        return self.client.inside(lambda: subprocess.run(command, capture_output=True, check=False)).returncode == 0

    def handshake(self) -> str:
        """When the session began."""
        return self.node.dump()[1][self.subscriber.public_key.text()][4]


def public_key(tunnel: Tunnel) -> PublicKey:
    return PublicKey.parse(tunnel.dump()[0][1])


@pytest.fixture
def pair(tunnel: Tunnel, unique: Callable[[str], str], tmp_path: Path) -> Iterator[Pair]:
    node = tunnel
    kind = node.backend.kind
    assert kind != "veth"
    with made(kind, unique, tmp_path) as client:
        a, b = unique("a"), unique("b")
        node.run("ip", "link", "add", a, "type", "veth", "peer", "name", b, "netns", client.namespace)
        for end, link, outer, inner in ((node, a, "192.0.2.1", NODE), (client, b, "192.0.2.2", CLIENT)):
            end.configure()
            end.run("ip", "address", "add", f"{outer}/24", "dev", link)
            end.run("ip", "link", "set", link, "up")
            end.run("ip", "address", "add", f"{inner}/24", "dev", end.name)
            end.run("ip", "link", "set", end.name, "up")
        subscriber = Peer(public_key(client), (InnerAddress.parse(CLIENT),))
        node.apply([SetPeer(subscriber)])
        pair = Pair(node, client, subscriber)
        pair.introduce()
        assert pair.reaches(seconds=patience(10))
        yield pair
