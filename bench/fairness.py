"""Fifty peers of one plan, and one of them greedy: how much of their fair share the others keep.

The node's way out has a line that carries what the plans add up to. The greedy one alone offers twice as much as the
line carries, the others a little more than their plan each: where nobody looks at peers, who sends most gets most.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from bench.contenders import JETPLANE, MASQUERADE, Contender, jetplane_node, nftables_node
from bench.forwarding import Say
from bench.results import Row, compared
from jetplane.errors import JetplaneError
from jetplane.lab import namespaces
from jetplane.lab.addresses import SITES_IPV4, UPLINK, LabOptions
from jetplane.lab.topology import lab
from jetplane.lab.waiting import patience, wait_until

PEERS = 50
FAIR_MBIT = 1
"""The plan of everybody, each way: of IP packets, as the node counts them."""
LINE_KBIT = 52_000
"""Fifty fair shares with their Ethernet headers are 50,583 kbit/s."""
LINE_QUEUE_S = 0.05
OFFERED = 1.2
"""What each of the others sends, in fair shares: it is the node that says how much passes. A burst is spent before it
counts."""
MODEST = 1.02
"""The same while nobody is greedy: the line carries it."""
GREED = 2
"""Datagrams of the greedy one between any two of the others: 103 fair shares."""

KEPT = "% of fair share"
_LENGTH = 1200  # of an IP packet
_ETHERNET = 14
_PAYLOAD = bytes(_LENGTH - 28 - 2)
_WARM_S, _MEASURED_S = 0.4, 0.75
_BEHIND_S = 0.01
"""A sender that was kept from running for longer does not catch up: that would be a burst."""
_SILENT_S = 4 * LINE_QUEUE_S
_ALIKE, _CHECKS = 95.0, 5
TRIES = 20
"""To offer what should be offered: who else uses the machine keeps the sender from it."""
_PORT = 7007
_GREEDY = 0
_RECEIVE_BUFFER = 32 << 20


class TooBusyError(JetplaneError):
    """Others use so much of this machine that what should be offered cannot be."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What reached its end, in % of a fair share."""

    others: tuple[float, ...]
    greedy: float

    @property
    def mean(self) -> float:
        """Of the others."""
        return sum(self.others) / len(self.others)

    @property
    def worst(self) -> float:
        """Of the others."""
        return min(self.others)


@dataclass(frozen=True, slots=True)
class Offered:
    """How many datagrams each peer was sent for or sent, in how many seconds."""

    datagrams: Counter[int]
    seconds: float

    def fair_shares(self, peer: int) -> float:
        """What a peer offered, in fair shares."""
        return self.datagrams[peer] / fair_datagrams(self.seconds)

    def is_meant(self, *, greedy: bool) -> bool:
        """Whether the machine let the sender send enough: for everybody a fair share, for the greedy one a line's."""
        line = LINE_KBIT / 1000 / FAIR_MBIT
        peers = range(PEERS)
        return all(self.fair_shares(peer) >= (line if greedy and peer == _GREEDY else 1.0) for peer in peers)


def fair_datagrams(seconds: float) -> float:
    """How many a fair share is."""
    return FAIR_MBIT * 1e6 / 8 / _LENGTH * seconds


class Crowd:
    """The peers of one node and a site, each with a socket. A context manager."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        plan = contender.lab.plan
        own = plan.idle_peers(contender.lab.options.peers)[:: len(plan.tunnels)]
        self._inner = [str(ipv4) for ipv4, _ in own[:PEERS]]
        self._stack = ExitStack()
        self._origins: dict[int, tuple[str, int]] = {}

    def __enter__(self) -> Self:
        plan = self.contender.lab.plan
        with ExitStack() as stack:
            self._site = stack.enter_context(_bound(plan.internet, SITES_IPV4[0]))
            self._peers = [stack.enter_context(_bound(plan.subscribers[0].namespace, inner)) for inner in self._inner]
            for peer in self._peers:
                peer.connect((SITES_IPV4[0], _PORT))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def meet(self) -> None:
        """Let the site learn where each peer seems to come from. JetplaneError unless it is where it should be."""

        def all_known() -> bool:
            for number in range(PEERS):
                if number not in self._origins:
                    self._peers[number].send(_datagram(number, counts=False))
            time.sleep(0.01)
            while (found := _received(self._site)) is not None:
                self._origins[found[0][0]] = found[1]
            return len(self._origins) == PEERS

        wait_until(f"the peers' first datagrams ({self.contender.name})", all_known, seconds=20)
        expected = self.contender.sources[4] if self.contender.sources else frozenset(self._inner)
        if strangers := {address for address, _ in self._origins.values()} - expected:
            raise JetplaneError(f"bench: {self.contender.name}: peers appear as {min(strangers)}: nothing is measured")

    def shares(self, *, returning: bool, greedy: bool) -> Shares:
        """Offer what everybody offers; what came of it. TooBusyError when this machine cannot offer it."""
        for _ in range(TRIES):
            before = self._refused(returning=returning)
            with _preferred():
                offered = self._offer(self._to_peer if returning else self._to_site, greedy=greedy)
            arrived = self._drain(returning=returning)
            if not offered.is_meant(greedy=greedy):
                continue
            refused = self._refused(returning=returning) - before
            if greedy and refused < offered.datagrams[_GREEDY] / 4:
                raise JetplaneError(
                    f"bench: {self.contender.name}: only {refused} datagrams were refused: there was no contention"
                )
            fair = fair_datagrams(offered.seconds) / 100
            return Shares(tuple(arrived[peer] / fair for peer in range(1, PEERS)), arrived[_GREEDY] / fair)
        raise TooBusyError("bench: fairness: this machine is too busy to send for fifty peers", hint="try again later")

    def _to_site(self, peer: int, datagram: bytes) -> None:
        self._peers[peer].send(datagram)

    def _to_peer(self, peer: int, datagram: bytes) -> None:
        self._site.sendto(datagram, self._origins[peer])

    def _offer(self, send: Callable[[int, bytes], None], *, greedy: bool) -> Offered:
        """Send by the clock, peer by peer in turn."""
        others = [*range(greedy, PEERS)]
        turns_a_second = len(others) * (OFFERED if greedy else MODEST) * fair_datagrams(1)
        order = random.Random(0)
        sent: Counter[int] = Counter()
        turn, began = 0, time.monotonic()
        counted_from = math.inf
        while (now := time.monotonic()) < counted_from + _MEASURED_S:
            behind = now - began - turn / turns_a_second
            if behind > _BEHIND_S:
                began += behind - _BEHIND_S
            if counted_from == math.inf and turn > _WARM_S * turns_a_second:
                counted_from = now
            counts = counted_from < math.inf
            while turn < (now - began) * turns_a_second:
                if turn % len(others) == 0:
                    order.shuffle(others)  # or a full queue would always refuse the same ones
                for peer in (others[turn % len(others)], *([_GREEDY] * GREED if greedy else ())):
                    send(peer, _datagram(peer, counts=counts))
                    sent[peer] += counts
                turn += 1
            time.sleep(0.001)
        return Offered(sent, now - counted_from)

    def _drain(self, *, returning: bool) -> Counter[int]:
        """What has arrived of all that counts, once nothing more arrives."""
        arrived: Counter[int] = Counter()
        ends = self._peers if returning else [self._site]
        last = time.monotonic()
        while time.monotonic() < last + _SILENT_S:
            for end in ends:
                while (found := _received(end)) is not None:
                    last = time.monotonic()
                    peer, counts = found[0][:2]
                    arrived[peer] += counts
            time.sleep(0.005)
        return arrived

    def _refused(self, *, returning: bool) -> int:
        """Datagrams so far that the node refused: beyond a plan (jetplane), or by the line's queue."""
        if self.contender.name == JETPLANE:
            return self.contender.lab.node.report().counters["RATE"]
        [line, *_] = json.loads(_tc(self.contender, "-s", "-j", "qdisc", "show", "dev", self._way(returning), "root"))
        return int(line["drops"])

    def lay_line(self) -> None:
        """Give both ways out of the node a line that carries no more than everybody's plans."""
        for returning in (False, True):
            queue = int(LINE_KBIT * 1000 / 8 * LINE_QUEUE_S)
            tbf = ["tbf", "rate", f"{LINE_KBIT}kbit", "burst", "16kb", "limit", f"{queue}"]
            _tc(self.contender, "qdisc", "add", "dev", self._way(returning), "root", *tbf)

    def _way(self, returning: bool) -> str:
        return self.contender.tunnel if returning else UPLINK


def _bound(namespace: str, address: str) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        made.bind((address, _PORT))
        return made

    return namespaces.inside(namespace, make)


@contextlib.contextmanager
def _preferred() -> Iterator[None]:
    """The sender before others on the machine, or it would not send what it should (setpriority(2), of one thread)."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, -20)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, thread, 0)


_SO_RCVBUFFORCE = 33  # asm-generic/socket.h


def _datagram(peer: int, *, counts: bool) -> bytes:
    return bytes((peer, counts)) + _PAYLOAD


def _received(end: socket.socket) -> tuple[bytes, tuple[str, int]] | None:
    try:
        return end.recvfrom(2, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None


def _tc(contender: Contender, *arguments: str) -> str:
    done = namespaces.run(contender.lab.plan.node, ["tc", *arguments], lab=contender.lab.name, timeout=patience(20))
    if done.returncode:
        raise JetplaneError(f"bench: tc {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def measure(*, rounds: int, say: Say) -> Iterator[Row]:
    """Rows for both ways: what the others keep, jetplane and the rival in turn."""
    options = LabOptions(transport="veth", peers=2 * PEERS, up_mbit=FAIR_MBIT, down_mbit=FAIR_MBIT)
    with ExitStack() as stack:
        crowds = []
        for prepare in (jetplane_node, nftables_node):
            crowds.append(stack.enter_context(Crowd(prepare(stack.enter_context(lab(options))))))
            crowds[-1].lay_line()
            crowds[-1].meet()
        for name, returning in (("to the internet", False), ("from the internet", True)):
            for crowd in crowds:
                check(crowd, returning=returning)
            yield from _compare(crowds, name, returning=returning, rounds=rounds, say=say)


def check(crowd: Crowd, *, returning: bool) -> None:
    """See that fifty peers who are all alike get their fair share. Raises JetplaneError: then nothing may be told."""
    for _ in range(_CHECKS):
        found = crowd.shares(returning=returning, greedy=False)
        if min(found.worst, found.greedy) >= _ALIKE:
            return
    raise JetplaneError(
        f"bench: {crowd.contender.name}: with nobody greedy one peer has {found.worst:.0f} % of its fair share: "
        "nothing is measured"
    )


def _compare(crowds: Sequence[Crowd], name: str, *, returning: bool, rounds: int, say: Say) -> Iterator[Row]:
    found: dict[str, list[Shares]] = {crowd.contender.name: [] for crowd in crowds}
    for number in range(rounds):
        for crowd in crowds if number % 2 else reversed(crowds):
            found[crowd.contender.name].append(crowd.shares(returning=returning, greedy=True))
    own, rival = found[JETPLANE], found[MASQUERADE]
    picked: tuple[tuple[str, str, Callable[[Shares], float]], ...] = (
        ("the other 49, mean", KEPT, lambda shares: shares.mean),
        ("the other 49, worst", KEPT, lambda shares: shares.worst),
        ("the greedy one", "fair shares", lambda shares: shares.greedy / 100),
    )
    for what, unit, share in picked:
        row = compared(
            "fairness", f"{name}: {what}", unit, [*map(share, own)], MASQUERADE, [max(0.01, share(x)) for x in rival]
        )
        say(f"fairness {row.metric}: {row.jetplane} {unit}, the rival {row.rival_value}")
        yield row
