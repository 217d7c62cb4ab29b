"""Packets of every shape through a running node: super-packets, data in pages, and headers a NAT must not touch."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from jetplane.dataplane.programs import Hook
from jetplane.lab.addresses import TO_NODE, UPLINK
from jetplane.lab.topology import Lab
from tests.netns import nat_place as place
from tests.netns import skb_shapes
from tests.netns.nat_place import FAMILIES, FAR
from tests.netns.skb_shapes import Witness

pytestmark = pytest.mark.timeout(300)

SIZE = 1_000_000
UDP_SEGMENT, UDP_GRO = 103, 104  # linux/udp.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
SEGMENT, SEGMENTS = 1200, 40
ROUNDS = 3
ALL = ("rx", "tx", "sg", "tso", "gso", "gro", "tx-udp-segmentation")


@dataclass(frozen=True, slots=True)
class Witnesses:
    """They count what nat_out and nat_in have sent on, super-packets still in one piece."""

    out: Witness  # where it arrives, so GRO must be off there while they are asked
    in_: Witness


@pytest.fixture(scope="module")
def lab(nat_lab: Lab) -> Lab:
    """The one that all share."""
    return nat_lab


@pytest.fixture(scope="module")
def witnesses(lab: Lab) -> Iterator[Witnesses]:
    """Counting."""
    with skb_shapes.witness() as out, skb_shapes.witness() as in_:
        out.attach(lab.plan.internet, TO_NODE, Hook.INGRESS)
        in_.attach(lab.plan.node, lab.plan.tunnels[lab.plan.subscribers[0].tunnel].name, Hook.EGRESS)
        yield Witnesses(out, in_)


def _ends(lab: Lab) -> list[tuple[str, str]]:
    """Every interface between the subscriber and the far host."""
    subscriber, node, internet = lab.plan.subscribers[0], lab.plan.node, lab.plan.internet
    return [
        (subscriber.namespace, subscriber.interface),
        (node, lab.plan.tunnels[subscriber.tunnel].name),
        (node, UPLINK),
        (internet, TO_NODE),
        (internet, place.TO_FAR),
        (place.far(lab), "eth0"),
    ]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is sent: sendfile(2) lets packets point at its pages."""
    made = tmp_path_factory.mktemp("offloads") / "content"
    made.write_bytes(os.urandom(SIZE))
    return made


OFF: dict[str, tuple[str, ...]] = {"nothing": (), **{name: (name,) for name in ALL[1:]}, "everything": ALL}


def _switch_off(lab: Lab, off: tuple[str, ...]) -> None:
    ends = _ends(lab)
    place.set_offloads(lab, ends, *itertools.chain.from_iterable((name, "on") for name in ALL))
    if off:
        place.set_offloads(lab, ends, *itertools.chain.from_iterable((name, "off") for name in off))


def _send_files(lab: Lab, file: Path, family: int) -> None:
    """By TCP, in both directions."""
    with place.connection(lab, family) as (client, server):
        _send_file(client, server, file)
        _send_file(server, client, file)


def _send_datagrams(lab: Lab, file: Path, family: int) -> None:
    """In bulk, in both directions, to one who takes them singly and to one who takes them as GRO has joined them."""
    with place.talking(place.subscriber(lab, 0), place.far(lab), FAR[family]) as (client, server):
        for joined in (0, 1):
            _send_segments(client, server, joined)
            _send_segments(server, client, joined)


WAYS = (_send_files, _send_datagrams)


@pytest.mark.parametrize("off", OFF.values(), ids=OFF)
def test_everything_arrives_whole_with_each_offload_off(lab: Lab, file: Path, off: tuple[str, ...]) -> None:
    """Switched off on every interface on the way. With "tx" off alone the kernel computes checksums when it cuts
    super-packets up, from what the programs have made of them; with all on, nobody looks at them here."""
    _switch_off(lab, off)
    for family, send in itertools.product(FAMILIES, WAYS):
        send(lab, file, family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("send", WAYS, ids=["tcp", "udp"])
def test_the_programs_were_given_packets_of_every_shape(
    lab: Lab, witnesses: Witnesses, file: Path, send: Callable[[Lab, Path, int], None], family: int
) -> None:
    """The control of the test above: with offloads there are super-packets with their data in pages, without none."""
    _switch_off(lab, ())
    place.set_offloads(lab, [(lab.plan.internet, TO_NODE)], "gro", "off")
    send(lab, file, family)
    for seen in (witnesses.out.take(), witnesses.in_.take()):
        assert min(seen.super_packets, seen.nonlinear) >= ROUNDS, seen
    _switch_off(lab, ALL)
    send(lab, file, family)
    for seen in (witnesses.out.take(), witnesses.in_.take()):
        assert seen.packets > ROUNDS * SEGMENTS
        assert seen.super_packets == 0, seen
    _switch_off(lab, ())


def _send_file(sender: socket.socket, receiver: socket.socket, file: Path) -> None:
    def work() -> None:
        with file.open("rb") as content:
            sender.sendfile(content)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    received = bytearray()
    while len(received) < SIZE and (more := receiver.recv(1 << 20)):
        received += more
    thread.join()
    assert sha256(received).digest() == sha256(file.read_bytes()).digest()


def _send_segments(sender: socket.socket, receiver: socket.socket, joined: int) -> None:
    """Datagrams by the dozen in one call (udp(7), UDP_SEGMENT); each must arrive as it is, and in order."""
    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT)
    receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
    receiver.setsockopt(socket.IPPROTO_UDP, UDP_GRO, joined)
    for _ in range(ROUNDS):
        sent = os.urandom(SEGMENT * SEGMENTS - 7)
        sender.send(sent)
        received: list[bytes] = []
        while sum(map(len, received)) < len(sent):
            received.append(receiver.recv(65536))
        assert joined or len(received) == SEGMENTS
        assert sha256(b"".join(received)).digest() == sha256(sent).digest()
    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
    receiver.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 0)
