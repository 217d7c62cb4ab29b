"""What independent programs say of a running node's NAT, and what two nodes' subscribers can do with it.

Ports are not preserved: external ports are random (RFC 6056), whatever the local one is.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from scapy.layers.inet import IP

from jetplane.lab import topology
from jetplane.lab.addresses import LabOptions
from jetplane.lab.topology import Lab
from tests.netns import nat_place as place
from tests.netns import nat_witnesses as witnesses
from tests.netns.nat_place import FAMILIES, SITES

pytestmark = pytest.mark.timeout(300)

FILTERINGS = ("address", "endpoint-independent", "address-and-port")
UDP_TIMEOUT = 300
WAIT = 2
"""Seconds that coturn waits between its two questions."""
LIVES = {0: True, UDP_TIMEOUT - WAIT - 1: True, UDP_TIMEOUT + 1: False}
"""Seconds that a binding has idled when coturn begins to wait, and whether it still lives when it has waited."""
TICK_SHIFT = 30
"""A binding's clock counts 2^30 nanoseconds (ebpf/binding.h)."""


@pytest.fixture(scope="module")
def labs(root: None) -> Iterator[tuple[Lab, Lab]]:
    """Two nodes on one internet, with witnesses' servers for each. Two subscribers share its one exit address."""
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(topology.lab(LabOptions(transport="veth", first_exit=first))) for first in (0, 16)
        )
        place.join(one, other)
        with ThreadPoolExecutor() as together:
            list(together.map(Lab.start, (one, other)))
        for lab in (one, other):
            stack.enter_context(witnesses.servers(lab))
        yield one, other


@pytest.fixture(scope="module", params=FILTERINGS)
def filtering(labs: tuple[Lab, Lab], request: pytest.FixtureRequest) -> str:
    """Both nodes filter in this way; the first is how they begin."""
    wanted = str(request.param)
    if wanted != FILTERINGS[0]:
        place.set_filtering(labs, wanted)
    return wanted


def test_witnesses_report_what_the_configuration_says(labs: tuple[Lab, Lab], filtering: str) -> None:
    """Two subscribers on the same local ports, at one node as it is and at another whose state was polluted before."""
    fresh, polluted = labs
    ports = _Ports(40000 + 10 * FILTERINGS.index(filtering))
    before = place.counters(polluted)
    for family in FAMILIES:
        _send_without_reply(polluted, family, ports)
        _send_unsolicited(polluted, family)
    refused = {"NO_BINDING"} | ({"FILTERED"} if filtering != "endpoint-independent" else set())
    for reason in refused:
        place.wait_for_rise(polluted, reason, before, 1000)
    with ExitStack() as stack:
        running = [(lab, _start_all(lab, ports, stack)) for lab in (fresh, polluted)]
        for lab, started in running:
            _judge(lab, started, filtering)


@dataclass(frozen=True, slots=True)
class _Ports:
    """Local ports that both subscribers use, others in each round: a binding remembers whom it has addressed."""

    first: int

    @property
    def mapping(self) -> int:
        return self.first

    @property
    def filtering(self) -> int:
        return self.first + 2

    @property
    def stun(self) -> int:
        """And the next one."""
        return self.first + 4


def _send_without_reply(lab: Lab, family: int, ports: _Ports) -> None:
    """From the witnesses' local ports and many others, to hosts that never answer."""
    nowhere = {4: "192.0.2.99", 6: "2001:db8:1::99"}[family]
    local = (ports.mapping, ports.filtering, ports.stun, ports.stun + 1, *range(42000, 42060))
    for number, port in itertools.product((0, 1), local):
        with place.udp(place.subscriber(lab, number), family, port) as client:
            for remote in range(4):
                client.sendto(b"anybody there?", (nowhere, 5000 + remote))


def _send_unsolicited(lab: Lab, family: int) -> None:
    """From where the witnesses' servers will answer, to each port that a subscriber holds and to as many others; and
    from the other subscriber."""
    with place.maps(lab) as maps:
        first = place.udp_slot(lab, maps("bindings"), family, 0)
        held = {slot - first for _, slot in maps("endpoints").items() if 0 <= slot - first < 65536}
    assert len(held) >= 100
    targets = [*held, *(port ^ 0x5555 | 1024 for port in held)]
    servers = [(lab.plan.internet, site, port) for site in SITES[family] for port in witnesses.STUN_PORTS]
    others = [(place.subscriber(lab, 1), "", 45000)]
    for namespace, address, port in servers + others:
        with place.udp(namespace, family, port, address) as sender:
            for target in targets:
                with contextlib.suppress(ConnectionRefusedError):
                    sender.sendto(b"unsolicited", (place.exits(lab, family)[0], target))


Running = dict[tuple[str, int, int], witnesses.Witness]
"""By what it looks at, subscriber and family."""


def _start_all(lab: Lab, ports: _Ports, stack: ExitStack) -> Running:
    found: Running = {}
    for number, family in itertools.product((0, 1), FAMILIES):
        found["mapping", number, family] = witnesses.natdiscovery(lab, number, family, "-m", ports.mapping)
        found["filtering", number, family] = witnesses.natdiscovery(lab, number, family, "-f", ports.filtering)
    for number in (0, 1):
        found["stun", number, 4] = witnesses.classic_stun(lab, number, ports.stun)
    for witness in found.values():
        stack.enter_context(witness)
    return found


def _judge(lab: Lab, running: Running, filtering: str) -> None:
    by_coturn, by_stun = witnesses.VERDICTS[filtering]
    external: list[str] = []
    for (what, _, family), witness in running.items():
        said = witness.said()
        match what:
            case "mapping":
                assert "NAT with Endpoint Independent Mapping" in said, said
                told = witnesses.addresses_in(said)
                assert len(told) == 1, said
                external += told
                assert told.pop().rpartition(":")[0] == place.exits(lab, family)[0]
            case "filtering":
                assert f"NAT with {by_coturn}" in said, said
            case "stun":
                assert f"Independent Mapping, {by_stun}, random port, will hairpin" in said, said
    assert len(set(external)) == len(external) == 4, "two subscribers share an external port"


def test_a_binding_lives_as_long_as_it_is_set_to(labs: tuple[Lab, Lab]) -> None:
    """coturn measures, in both families: it asks from one port, waits, and asks from a second port for an answer to
    the first. Nobody waits the 300 seconds of the setting: the binding is made older by hand, in the map. The clock
    of a binding rounds up, to 302.2 seconds at most."""
    lab, waiting = labs[0], []
    with ExitStack() as stack:
        for family, (idle, alive) in itertools.product(FAMILIES, LIVES.items()):
            witness = stack.enter_context(witnesses.natdiscovery(lab, 0, family, "-t", 0, "-T", str(WAIT)))
            port = int(witness.wait_for(rb"reflexive addr: \S+:(\d+)\n")[1])
            _make_older(lab, family, port, idle)
            waiting.append((witness, alive))
        for witness, alive in waiting:
            said = witness.said()
            assert ("RFC 5780 response 2" in said) is alive, said
            assert ("STUN receive timeout" in said) is not alive, said


def _make_older(lab: Lab, family: int, port: int, seconds: int) -> None:
    """Put back the last use of the binding at an external UDP port."""
    with place.maps(lab) as maps:
        slot = place.udp_slot(lab, maps("bindings"), family, port)
        binding = maps("bindings").lookup(slot)
        tick = (binding.life - (seconds * 10**9 >> TICK_SHIFT)) & 0xFFFFFFFF  # the machine may be younger than that
        binding.life = binding.life & ~0xFFFFFFFF | tick
        maps("bindings").update(slot, binding)


PROBES = {
    "udp": ("--udp", "-g", "33333", "-p", "7777"),
    "tcp": ("--tcp", "-g", "33334", "-p", "80"),
    "icmp": ("--icmp",),
}


def test_nping_shows_each_packet_as_sent_and_as_translated(labs: tuple[Lab, Lab]) -> None:
    """Address, port or identifier, TTL and checksums change; nothing else does. nping's echo mode knows IPv4 only."""
    lab = labs[0]
    with ExitStack() as stack:
        running = {name: stack.enter_context(witnesses.nping(lab, 1, *probe)) for name, probe in PROBES.items()}
        heard = {name: witness.said() for name, witness in running.items()}
    for name, said in heard.items():
        sent, captured = (IP(witnesses.dump(said, label)) for label in ("SENT", "CAPT"))
        assert captured.src == place.exits(lab, 4)[0], said
        port = {"udp": "sport", "tcp": "sport", "icmp": "id"}[name]
        assert getattr(captured.payload, port) != getattr(sent.payload, port), "a random port is the local one"
        sent.src, sent.ttl = captured.src, sent.ttl - 1
        setattr(sent.payload, port, getattr(captured.payload, port))
        del sent.chksum, sent.payload.chksum
        assert bytes(captured) == bytes(sent), "scapy computes the checksums anew"


@pytest.mark.parametrize("family", FAMILIES)
def test_subscribers_behind_two_nodes_punch_holes(labs: tuple[Lab, Lab], filtering: str, family: int) -> None:
    """RFC 5128, section 3.3: each learns from a third host how the internet sees the other, and both send."""
    here, there = labs
    open_to_all = filtering == "endpoint-independent"
    with (
        place.udp(here.plan.internet, family, address=place.JOINT[family]) as rendezvous,
        place.udp(place.subscriber(here, 0), family) as one,
        place.udp(place.subscriber(there, 0), family) as other,
    ):
        seen = [_register(peer, rendezvous) for peer in (one, other)]
        assert [address for address, _ in seen] == [place.exits(lab, family)[0] for lab in labs]
        before = place.counters(there)
        one.sendto(b"opens the way", seen[1])
        if open_to_all:
            assert other.recv(100) == b"opens the way"
        else:
            place.wait_for_rise(there, "FILTERED", before)
        other.sendto(b"comes through", seen[0])
        assert one.recvfrom(100)[1][:2] == seen[1]
        one.sendto(b"and back", seen[1])
        assert other.recvfrom(100)[0] == b"and back"
        _try_a_stranger(here, family, one, seen[0], gets_in=open_to_all)


def _register(peer: socket.socket, rendezvous: socket.socket) -> tuple[str, int]:
    """Return how the rendezvous server sees a peer."""
    peer.sendto(b"here I am", rendezvous.getsockname()[:2])
    address, port = rendezvous.recvfrom(100)[1][:2]
    return str(address), int(port)


def _try_a_stranger(lab: Lab, family: int, peer: socket.socket, target: tuple[str, int], *, gets_in: bool) -> None:
    """A host that the peer has never addressed sends to its hole."""
    before = place.counters(lab)
    with place.udp(lab.plan.internet, family, address=SITES[family][0]) as stranger:
        for _ in range(3):
            stranger.sendto(b"let me in", target)
    if gets_in:
        assert [peer.recv(100) for _ in range(3)] == [b"let me in"] * 3
        return
    place.wait_for_rise(lab, "FILTERED", before, 3)
    peer.settimeout(0)
    with pytest.raises(BlockingIOError):
        peer.recv(100)
