"""A whole node with real subscribers whose peers come from a bucket: what a revocation, an outage and a restart do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jetplane.lab import topology, traffic
from jetplane.lab.addresses import SITES_IPV4
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import wait_until
from jetplane.model import PublicKey
from tests.netns.nats_server import BUCKET, ControlPlane, Relay, Server

pytestmark = pytest.mark.timeout(300)

_NATS = """
[nats]
servers = ["{url}"]
bucket = "{bucket}"
node = "lab"
resync_spread = 0
"""


class World:
    """A lab, the control plane, and the way between them."""

    def __init__(self, lab: Lab, plane: ControlPlane, relay: Relay) -> None:
        self.lab, self.plane, self.relay = lab, plane, relay
        self.keys = [PublicKey.parse(text) for text in lab.public_keys]

    def publish(self, number: int) -> None:
        """Let a subscriber in."""
        plan = self.lab.plan.subscribers[number]
        self.plane.put(self.keys[number], {"allowed_ips": [str(plan.inner_ipv4), str(plan.inner_ipv6)]})

    def reaches(self, number: int) -> bool:
        """Whether a subscriber gets an answer from a site."""
        visit = traffic.Visit(self.lab.name, self.lab.plan.subscribers[number].namespace, SITES_IPV4[0])
        return traffic.ping(visit, 1, wait=1) == 1

    def is_in_force(self) -> bool:
        """Whether the node says that it has everything that was published."""
        return self.plane.acknowledged().get("lab", {}).get("revision") == self.plane.revision()


@pytest.fixture(scope="module")
def world(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory: Path = tmp_path_factory.mktemp("nats")
    with (
        Server(directory) as server,
        ControlPlane(server.url) as plane,
        topology.lab() as lab,
        Relay(server, lab.plan.node) as relay,
    ):
        plane.make_buckets()
        text = lab.node.config.read_text().replace('path = "peers.toml"', 'source = "nats"')
        lab.node.config.write_text(text + _NATS.format(url=relay.url, bucket=BUCKET))
        made = World(lab, plane, relay)
        made.publish(0)
        made.publish(1)
        lab.start()
        yield made


def test_subscribers_of_the_bucket_are_served_and_one_that_is_revoked_is_cut_off(world: World) -> None:
    for number in (0, 1):
        wait_until(f"subscriber {number}", lambda number=number: world.reaches(number), seconds=30)  # type: ignore[misc]
    wait_until("the acknowledgement", world.is_in_force)
    assert world.lab.node.status()["source_ok"]
    world.plane.revoke(world.keys[1])
    wait_until("the revocation", world.is_in_force, seconds=5)
    assert not world.reaches(1)
    assert world.reaches(0)


def test_a_node_that_restarts_while_nats_is_away_serves_whom_it_served(world: World) -> None:
    wait_until("subscriber 0", lambda: world.reaches(0), seconds=30)
    world.relay.cut(on=True)
    wait_until("the outage shows", lambda: not world.lab.node.report().status.source_ok)
    assert world.reaches(0)
    world.lab.node.kill()
    world.publish(1)
    world.lab.node.start()
    status = world.lab.node.status()
    assert status["ready"]
    assert not status["healthy"]
    assert [text for text in status["problems"] if "peers are left alone" in text]
    assert world.reaches(0), "its peer was taken for revoked"
    world.relay.cut(on=False)
    wait_until("what happened meanwhile", world.is_in_force, seconds=15)
    wait_until("subscriber 1", lambda: world.reaches(1), seconds=30)
    wait_until("the node is well", lambda: world.lab.node.status()["healthy"])
    said = world.lab.node.log.read_text()
    for plan, key in zip(world.lab.plan.subscribers, world.lab.public_keys, strict=True):
        assert key not in said
        assert str(plan.inner_ipv4) not in said
