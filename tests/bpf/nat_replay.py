"""Plays steps on the programs and on the model at once, and compares packet by packet: verdict, target, every byte."""

from __future__ import annotations

from dataclasses import replace

from jetplane.config import PRIVATE, tunnel_networks
from tests.bpf.harness import WITNESS, Node, Result, Tc, Xdp
from tests.bpf.model.life import Timers
from tests.bpf.model.nat import Drop, Forward, Nat, Peer, Settings, Stack, Turn, Verdict
from tests.bpf.model.packets import End, Error, Packet, Protocol, Segment
from tests.bpf.model.ports import External
from tests.bpf.nat_frames import frame, source_of
from tests.bpf.nat_steps import (
    INNER_3,
    REFUSED,
    SITES,
    Burst,
    Change,
    ErrorIn,
    ErrorOut,
    Hairpin,
    In,
    Look,
    Out,
    OutElsewhere,
    Step,
    Sweep,
    Wait,
    inner_end,
    site_end,
)
from tests.bpf.nat_world import (
    EXIT,
    EXIT_2,
    INNER,
    INNER_2,
    NODE,
    OTHER,
    PEER,
    PEER_2,
    PROHIBIT_MARK,
    TUNNEL_IFINDEX,
    add_peer,
    change_peer,
    consistent,
    prepare,
    rewrite_life,
    slot_of,
    slots,
    sweep,
)

EXIT_INDICES = {EXIT[4]: 0, EXIT_2[4]: 1, EXIT[6]: 2, EXIT_2[6]: 3}
PEER_3 = 7
NUMBERS = (PEER, PEER_2, PEER_3)
HANDOVER_MARK = 0x6A657401
SECOND_TUNNEL = 9
"""A device in the test's namespace."""
UPLINK = 77
AGAIN = 1 << 32
"""BPF_F_INGRESS, where a witness tells it: the packet comes in again by the uplink."""


class Replay:
    """One NAT, twice."""

    def __init__(self, node: Node) -> None:
        self.node = prepare(node)
        add_peer(node, PEER_3, INNER_3.values(), tunnel_ifindex=SECOND_TUNNEL, exit_index=(1, 3))
        self.nat = Nat(settings(node), peers())
        self.made: list[External] = []

    def play(self, step: Step) -> None:
        """Do what the step says, and compare. Raises AssertionError where programs and model differ."""
        match step:
            case Out() | OutElsewhere():
                self._out(step)
            case Burst():
                for port in range(step.first, step.first + step.count):
                    source = inner_end(step.version, step.subscriber, 0)._replace(port=port)
                    target = site_end(step.version, 0, 0)
                    self.out(segment(step.protocol, source, target, Look(flags="S")), TUNNEL_IFINDEX)
            case Wait():
                self.nat.now += step.seconds
                for slot in slots(self.node):
                    rewrite_life(self.node, slot, age=step.seconds)
            case Change():
                self._change(step)
            case Sweep():
                swept, wanted = sweep(self.node), self.nat.sweep()
                assert swept == wanted, f"expired, released, live: {swept}, the model {wanted}"
            case _ if self.made:
                self._about(step, self.made[step.binding % len(self.made)])

    def finish(self) -> None:
        """What the programs keep is what the model keeps; TCP's two timers tell the states of connections apart."""
        consistent(self.node)
        self.play(Wait(300))
        self.play(Sweep())
        wanted = {slot_of(e.version, p, e.port, EXIT_INDICES[e.address]) for p, e in self.nat.external}
        assert set(slots(self.node)) == wanted, "after 300 s other bindings live than the model's"

    def _out(self, step: Out | OutElsewhere) -> None:
        source = inner_end(step.version, step.subscriber, step.port)
        tunnel = SECOND_TUNNEL if step.subscriber == 2 else TUNNEL_IFINDEX
        if isinstance(step, OutElsewhere):
            target = End(REFUSED[step.target][step.version], 443)
            self.out(segment(step.protocol, source, target, step.look), tunnel)
            return
        if step.wrong == "tunnel":
            tunnel = TUNNEL_IFINDEX + SECOND_TUNNEL - tunnel
        target = site_end(step.version, step.site, step.site_port)
        self.out(segment(step.protocol, source, target, step.look, reply=step.wrong == "reply"), tunnel)

    def _about(self, step: Hairpin | In | ErrorIn | ErrorOut, bound: External) -> None:
        """A packet that has to do with a binding, alive or dead."""
        protocol, end = bound
        if isinstance(step, Hairpin):
            source = inner_end(end.version, step.subscriber, step.port)
            tunnel = SECOND_TUNNEL if step.subscriber == 2 else TUNNEL_IFINDEX
            self.out(segment(protocol, source, end, step.look), tunnel)
            return
        site = site_end(end.version, step.site, step.site_port)
        if step.wrong == "port":
            end = end._replace(port=end.port ^ 1)
        if isinstance(step, In):
            if step.wrong == "protocol":
                protocol = "udp" if protocol == "tcp" else "tcp"
            self.inbound(segment(protocol, site, end, step.look, reply=step.wrong != "query", inner=end))
        elif isinstance(step, ErrorIn):
            about = segment(protocol, end, site, replace(step.look, ttl=9), reply=step.wrong == "direction")
            target = OTHER[end.version] if step.wrong == "destination" else end.address
            if step.wrong == "destination":
                target = (EXIT_2 if end.address == EXIT[end.version] else EXIT)[end.version]
            router = SITES[step.router][end.version]
            self.inbound(Error(router, target, step.kind, about, step.quoted, step.look.ttl))
        else:
            self._error_out(step, bound, site)

    def _error_out(self, step: ErrorOut, bound: External, site: End) -> None:
        binding = self.nat.external.get(bound)
        inner = binding.inner if binding else inner_end(site.version, 0, 0)
        if step.wrong == "port":
            inner = inner._replace(port=inner.port ^ 1)
        source = next(a[site.version] for a in (INNER, INNER_2, INNER_3) if a[site.version] == inner.address)
        tunnel = SECOND_TUNNEL if source == INNER_3[site.version] else TUNNEL_IFINDEX
        if step.wrong == "source":
            source = INNER[site.version] if source != INNER[site.version] else INNER_2[site.version]
        look, reply = replace(step.look, ttl=9), step.wrong != "direction"
        about = segment(bound.protocol, site, inner, look, reply=reply, inner=inner)
        self.out(Error(source, site.address, step.kind, about, step.quoted, step.look.ttl), tunnel)

    def _change(self, step: Change) -> None:
        number = NUMBERS[step.subscriber]
        peer = self.nat.peers[number]
        tunnel = SECOND_TUNNEL if number == PEER_3 else TUNNEL_IFINDEX
        peer.generation += 1
        if step.how == "move":
            first = peer.exits[4] == EXIT[4]
            peer.exits = dict(EXIT_2 if first else EXIT)
            kind = type(self.node.maps["peers"].lookup(number).exit_index)
            change_peer(self.node, number, exit_index=kind(*((1, 3) if first else (0, 2))))
        if step.how in ("remove", "return"):
            peer.tunnel = tunnel if step.how == "return" else 0
        change_peer(self.node, number, generation=peer.generation, tunnel_ifindex=peer.tunnel)

    def out(self, packet: Packet, tunnel: int) -> None:
        """A packet from a tunnel, and what becomes of it on the node."""
        result = self.node.run("nat_out", frame(packet), ifindex=tunnel)
        left = Tc(result.verdict) is Tc.REDIRECT
        before = set(self.nat.external)
        expected = self.nat.out(packet, tunnel, source_of(result.output) if left else None)
        self.made += sorted(set(self.nat.external) - before)
        compare(packet, expected, result)
        if isinstance(expected, Forward):
            assert target_of(result) == UPLINK
            seen = self.node.run("leak_guard", result.output, ingress_ifindex=tunnel)
            assert (Tc(seen.verdict), seen.output, dict(seen.counted)) == (Tc.OK, result.output, {})
        elif isinstance(expected, Turn):
            assert target_of(result) == UPLINK | AGAIN
            self.inbound(expected.packet, turned=True)

    def inbound(self, packet: Packet, *, turned: bool = False) -> None:
        """A packet from the uplink. What turns round on the node does not meet the guard."""
        octets = frame(packet)
        result = self.node.run("nat_in", octets)
        expected = self.nat.inbound(packet, passed=result.dropped is None)
        compare(packet, expected, result)
        if not turned:
            guarded = self.node.run("guard", octets)
            assert guarded.output == octets
            assert Xdp(guarded.verdict) is (Xdp.DROP if guarded.dropped else Xdp.PASS)
            assert isinstance(expected, Drop) or not guarded.dropped, f"the guard dropped {packet}: {guarded.dropped}"
        if isinstance(expected, Forward):
            assert target_of(result) == expected.tunnel
        elif isinstance(expected, Stack):
            self._answer(expected.packet)

    def _answer(self, handed: Packet) -> None:
        """The stack sends an error about what it was handed; it must not speak of the inner address."""
        assert isinstance(handed, Segment)
        error = Error(NODE[handed.version], handed.source.address, 0, handed, 28)
        result = self.node.run("leak_guard", frame(error))
        expected = self.nat.own_error(error)
        assert isinstance(expected, Forward)
        assert (Tc(result.verdict), result.output) == (Tc.OK, frame(expected.packet))


def compare(packet: Packet, expected: Verdict, result: Result) -> None:
    """Assert that the programs did with the packet what the model says."""
    seen = f"{packet}\nexpected: {expected}\nverdict {Tc(result.verdict).name}, counted {dict(result.counted)}"
    match expected:
        case Drop(reasons):
            assert result.dropped in reasons, seen
            # What there is no port for may go to the stack, to be answered that it is prohibited (RFC 5508, REQ-8). So
            # may what the policy denies.
            told = (
                result.dropped in ("PORTS_EXHAUSTED", "NO_EXIT", "POLICY_DESTINATION") and Tc(result.verdict) is Tc.OK
            )
            assert told or Tc(result.verdict) is Tc.SHOT, seen
            assert not told or (result.output, result.mark) == (frame(packet), PROHIBIT_MARK), seen
        case Forward(wanted) | Turn(wanted):
            assert Tc(result.verdict) is Tc.REDIRECT and result.dropped is None, seen
            assert result.output == frame(wanted), seen
        case Stack(wanted, is_local):
            assert Tc(result.verdict) is Tc.OK and result.dropped is None, seen
            assert (result.output, result.mark) == (frame(wanted), 0 if is_local else HANDOVER_MARK), seen


def target_of(result: Result) -> int:
    """Where the programs redirected the packet: device, and AGAIN."""
    return result.counted[WITNESS]


def segment(
    protocol: Protocol, source: End, destination: End, look: Look, *, reply: bool = False, inner: End | None = None
) -> Segment:
    """A packet that looks so. `inner` is the end whose port is the identifier of a query: the source otherwise."""
    if protocol == "icmp":
        identifier = (inner or source).port
        source, destination = source._replace(port=identifier), destination._replace(port=identifier)
    return Segment(
        protocol,
        source,
        destination,
        ttl=look.ttl,
        flags=look.flags if protocol == "tcp" else "",
        mss=look.mss if protocol == "tcp" else None,
        reply=reply and protocol == "icmp",
        summed=look.summed or protocol != "udp" or source.version == 6,
        payload=bytes(range(256)) * 6 if look.size > 1536 else (bytes(range(256)) * 6)[: look.size],
    )


def settings(node: Node) -> Settings:
    """The model's settings are the node's."""
    nat = node.config.nat
    timers = Timers(nat.udp_timeout, nat.icmp_timeout, nat.tcp_established_timeout, nat.tcp_transitory_timeout)
    tunnels = node.config.tunnel
    return Settings(
        filtering=nat.filtering,
        inbound_refresh=nat.inbound_refresh,
        block_quota=nat.block_quota,
        timers=timers,
        mtu=min(tunnel.mtu for tunnel in tunnels),
        exits=frozenset((*node.config.exit.ipv4, *node.config.exit.ipv6)),
        inner=tuple(str(network) for tunnel in tunnels for network in tunnel_networks(tunnel)),
        node=frozenset(NODE.values()),
        tunnel=frozenset(text.partition("/")[0] for tunnel in tunnels for text in tunnel.addresses),
        denied=(*PRIVATE, "64:ff9b::a00:0/104"),
    )


def peers() -> dict[int, Peer]:
    return {
        PEER: Peer(frozenset(INNER.values()), dict(EXIT), TUNNEL_IFINDEX),
        PEER_2: Peer(frozenset(INNER_2.values()), dict(EXIT), TUNNEL_IFINDEX),
        PEER_3: Peer(frozenset(INNER_3.values()), dict(EXIT_2), SECOND_TUNNEL),
    }
