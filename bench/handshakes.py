"""A flood of handshakes, each good enough to have WireGuard compute: how long real clients need to connect.

The messages are whole, with a valid first message authentication code (MAC1), so that nothing but a Diffie-Hellman
tells that they are nobody's. Beside it the same node without handshake budgets, which leaves it all to WireGuard's own
limits.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack

from bench import cores
from bench.contenders import configure, receive_frames
from bench.flood import ANYBODY, PREFIXES
from bench.flooding import Flooding, Sources
from bench.forwarding import Say
from bench.frames import udp, whole
from bench.results import Row, alone, compared
from bench.traffic import Place
from jetplane.errors import JetplaneError
from jetplane.lab import clients, links, namespaces
from jetplane.lab.addresses import LISTEN_PORT, NODE_IPV4, OUTER, TO_NODE, UPLINK, LabOptions
from jetplane.lab.links import hardware_address
from jetplane.lab.topology import Lab, lab
from jetplane.lab.waiting import patience

WITHOUT = "the same node without budgets"
_MOST_S = 6.0
"""A client's second attempt is five seconds after its first. Who has not come in by then counts as this."""
_APART_S = 0.2
"""WireGuard takes no two initiations of a peer within 20 ms (wireguard-go: 50)."""
_SETTLE_S = 1.0
_FLOOD_S = 600.0
_UDP = 17
_MAC1_AT = 116
_ELSEWHERE = "100.65.0.{number}"
"""Where the client is in turn: every time it is a stranger again."""


def initiation(node_key: str) -> bytes:
    """A handshake initiation to the holder of a public key (base64) that nobody can have made: section 5.4.2 of the
    WireGuard paper; what is encrypted in it is noise."""
    key = hashlib.blake2s(b"mac1----" + base64.b64decode(node_key)).digest()
    message = b"\1\0\0\0" + os.urandom(_MAC1_AT - 4)
    return message + hashlib.blake2s(message, key=key, digest_size=16).digest() + bytes(16)


class Client:
    """The lab's first subscriber, who connects again and again."""

    def __init__(self, built: Lab) -> None:
        self._lab, self._plan = built, built.plan.subscribers[0]
        self._node_key = clients.public_key((built.directory / "node.key").read_text())
        self._places = 0
        beyond = _ELSEWHERE.format(number=0) + "/24", str(self._plan.outer_ipv4.ip), self._plan.provider_link
        links.add_routes(built.plan.internet, [beyond])

    def move(self) -> None:
        """Be somewhere else."""
        self._places += 1
        place = _ELSEWHERE.format(number=self._places)
        self._run("ip", "address", "add", f"{place}/32", "dev", OUTER)
        gateway = str(self._plan.provider_ipv4.ip)
        self._run("ip", "route", "replace", f"{NODE_IPV4.ip}/32", "via", gateway, "dev", OUTER, "src", place)

    def connect(self) -> float:
        """Begin as if for the first time; seconds until the node answers a ping by the tunnel, _MOST_S at most."""
        time.sleep(_APART_S)
        wg = "wg", "set", self._plan.interface, "peer", self._node_key
        self._run(*wg, "remove")
        self._run(*wg, "endpoint", f"{NODE_IPV4.ip}:{LISTEN_PORT}", "allowed-ips", "0.0.0.0/0,::/0")
        inner = str(self._lab.plan.tunnels[self._plan.tunnel].ipv4.ip)
        command = ["ping", "-n", "-q", "-i", "0.05", "-c", "1", "-w", str(int(_MOST_S)), inner]
        began = time.monotonic()
        done = namespaces.run(self._plan.namespace, command, lab=self._lab.name, timeout=patience(_MOST_S + 10))
        return min(_MOST_S, time.monotonic() - began) if done.returncode == 0 else _MOST_S

    def _run(self, *command: str) -> None:
        done = namespaces.run(self._plan.namespace, [*command], lab=self._lab.name, timeout=patience(10))
        if done.returncode:
            raise JetplaneError(f"bench: {' '.join(command[:3])}: {done.stderr.decode(errors='replace').strip()}")


class Flooded:
    """A node that is flooded with handshakes while its client connects. A context manager."""

    def __init__(self, *, budgets: bool) -> None:
        self._stack = ExitStack()
        self._budgets = budgets

    def __enter__(self) -> Flooded:
        with ExitStack() as stack:
            self._lab = stack.enter_context(lab(LabOptions()))
            receive_frames(self._lab, UPLINK)
            if not self._budgets:
                configure(self._lab, "[guard]\n", "[guard]\nhandshakes_per_second = 0\n")
            self._lab.start()
            self.client = Client(self._lab)
            cores.forward_on_first(self._lab, self._lab.plan.internet, self._lab.plan.subscribers[0].provider_link)
            plan, node_key = self._lab.plan, clients.public_key((self._lab.directory / "node.key").read_text())
            frame = whole(
                to_mac=hardware_address(plan.node, UPLINK), source=ANYBODY[4], destination=str(NODE_IPV4.ip),
                protocol=_UDP, transport=udp(9, LISTEN_PORT, initiation(node_key)),
            )  # fmt: skip
            self._flooding = Flooding(4, len(frame.frame))
            stack.callback(self._flooding.close)
            self._flooding.aim(Place(plan.internet, TO_NODE), frame, Sources(PREFIXES))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def undisturbed(self, attempts: int) -> list[float]:
        """Seconds of each attempt, without a flood."""
        return [self._as_a_stranger() for _ in range(attempts)]

    def under_flood(self, attempts: int) -> tuple[list[float], list[float], float]:
        """Seconds of each attempt as a stranger, and of as many with a session a moment ago; and the flood, in Mpps."""
        strangers, known = [], []
        with self._flooding.going_on(cpu=cores.source_core(), seconds=_FLOOD_S) as flooded:
            time.sleep(_SETTLE_S)
            for _ in range(attempts):
                strangers.append(self._as_a_stranger())
                known.append(self.client.connect())
        return strangers, known, flooded.mpps

    def passed(self) -> int:
        """How many packets the guard has let through."""
        return self._lab.node.report().counters["GUARD_PASSED"]

    def _as_a_stranger(self) -> float:
        self.client.move()
        return self.client.connect()


def measure(*, rounds: int, say: Say) -> Iterator[Row]:
    """Rows of the time to connect: strangers, and those who lately had a session."""
    with Flooded(budgets=True) as own:
        quiet = own.undisturbed(rounds)
        strangers, known, mpps = own.under_flood(rounds)
    with Flooded(budgets=False) as rival:
        before = rival.passed()
        their_strangers, their_known, their_mpps = rival.under_flood(rounds)
        if rival.passed() - before < PREFIXES:
            raise JetplaneError(f"bench: {WITHOUT}: the flood did not pass the guard: nothing is measured")
    bench = f"handshake flood, {PREFIXES:,} prefixes"
    for who, found, theirs in (
        ("a stranger", strangers, their_strangers),
        ("who has had a session a moment ago", known, their_known),
    ):
        row = compared(bench, f"{who} connects", "s", found, WITHOUT, theirs)
        say(f"{bench}: {who} connects in {row.jetplane} s, without budgets {row.rival_value} s")
        yield row
        yield alone(bench, f"{who} connects, slowest of {rounds}", "s", [max(found)])
    yield alone(bench, "a stranger connects, without a flood", "s", quiet)
    yield compared(bench, "the flood", "Mpps", [mpps], WITHOUT, [their_mpps])
