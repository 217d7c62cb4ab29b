"""Who is measured: jetplane and its rivals, each on a lab of its own, all of the same topology."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.traffic import Place
from jetplane.config import PRIVATE
from jetplane.errors import JetplaneError, RequirementError
from jetplane.journal import Feature
from jetplane.lab import links, namespaces
from jetplane.lab.addresses import INNER_IPV4, INNER_IPV6, NODE_IPV4, NODE_IPV6, TO_NODE, UPLINK, LabOptions
from jetplane.lab.topology import Lab, lab
from jetplane.network import features

JETPLANE, FORWARDING, MASQUERADE, IPTABLES = (
    "jetplane",
    "plain forwarding",
    "nftables masquerade",
    "iptables masquerade",
)

SUBSCRIBERS = 512
"""Whom jetplane's node knows, besides the two of the lab. To its rivals an address is an address."""
EXITS = 6

_COMMAND_S = 20.0

_UPLINKS = {4: frozenset({str(NODE_IPV4.ip)}), 6: frozenset({str(NODE_IPV6.ip)})}

MASQUERADE_RULES = f"""
table inet nat {{
    chain postrouting {{
        type nat hook postrouting priority srcnat
        oifname "{UPLINK}" masquerade
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Contender:
    """A node that forwards, and the source addresses that its packets must have (by IP version; None: as they came)."""

    name: str
    lab: Lab
    sources: dict[int, frozenset[str]] | None

    @property
    def tunnel(self) -> str:
        """The node's interface towards the first subscriber."""
        return self.lab.plan.tunnels[self.lab.plan.subscribers[0].tunnel].name

    def inside(self, version: int, insides: int) -> str:
        """The first of so many inner addresses that follow one another, all behind the first subscriber's link."""
        subscriber = self.lab.plan.subscribers[0]
        if insides == 1:
            return str(subscriber.inner_ipv4 if version == 4 else subscriber.inner_ipv6)
        return str(self.lab.plan.idle_peers(1)[0][version == 6])


@contextlib.contextmanager
def contenders() -> Iterator[list[Contender]]:
    """All of them, ready to forward, jetplane first. Nothing is left of them afterwards."""
    with contextlib.ExitStack() as stack:
        made = []
        for prepare in (jetplane_node, forwarding_node, nftables_node, _iptables_node):
            options = LabOptions(transport="veth", peers=2 * SUBSCRIBERS, exit_addresses=EXITS)
            made.append(prepare(stack.enter_context(lab(options))))
        _same_offloads(made)
        for contender in made:
            cut_on_the_wire(contender.lab)
        yield made


_SITES = "10.0.0.0/8"
"""Where the sites of the benches are: no smaller network that nobody has is large enough."""
_DENIED = json.dumps(["11.0.0.0/8" if prefix == _SITES else prefix for prefix in PRIVATE])
_POLICY = f"[policy]\ndeny_private = false\ndeny = {_DENIED}\nnew_flows_per_second = 0\n"
"""As many prefixes as by default, so that each packet is compared with as many; flows as fast as there are ports."""


def jetplane_node(built: Lab, max_bindings: int = 262_144) -> Contender:
    """Start jetplane on a lab's node."""
    receive_frames(built, UPLINK, *(tunnel.name for tunnel in built.plan.tunnels))
    _reach_insides(built)
    configure(built, "[nat]\n", f"{_POLICY}\n[nat]\nmax_bindings = {max_bindings}\n")
    built.start()
    return Contender(JETPLANE, built, {4: frozenset(built.plan.exit_ipv4), 6: frozenset(built.plan.exit_ipv6)})


def configure(built: Lab, old: str, new: str) -> None:
    """Exchange a piece of the configuration of a lab's node."""
    text = built.node.config.read_text(encoding="utf-8")
    if old not in text:
        raise JetplaneError(f"bench: the lab's configuration has no {old.strip()!r}")
    built.node.config.write_text(text.replace(old, new), encoding="utf-8")


def forwarding_node(built: Lab) -> Contender:
    """Let the kernel of a lab's node forward, and nothing else."""
    receive_frames(built, UPLINK, *(tunnel.name for tunnel in built.plan.tunnels))
    _reach_insides(built)
    for tunnel in built.plan.tunnels:
        links.set_up(links.End(built.plan.node, tunnel.name, (str(tunnel.ipv4), str(tunnel.ipv6))))
    inner = (str(INNER_IPV4), str(NODE_IPV4.ip), TO_NODE), (str(INNER_IPV6), str(NODE_IPV6.ip), TO_NODE)
    links.add_routes(built.plan.internet, inner)
    namespaces.write_sysctls(built.plan.node, {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
    return Contender(FORWARDING, built, None)


def nftables_node(built: Lab) -> Contender:
    forwarding_node(built)
    nft(built, "-f", "-", text=MASQUERADE_RULES)
    return Contender(MASQUERADE, built, _UPLINKS)


def _iptables_node(built: Lab) -> Contender:
    """The older front end; with its own kernel part where there is one ("legacy"), else translated to nftables."""
    forwarding_node(built)
    variant = "legacy" if _iptables(built, "legacy") else "nft"
    if variant == "nft" and not _iptables(built, "nft"):
        raise RequirementError("bench: neither iptables-legacy nor iptables-nft can masquerade here")
    return Contender(f"{IPTABLES} ({variant})", built, _UPLINKS)


def _iptables(built: Lab, variant: str) -> bool:
    """Masquerade in both families; False where this variant cannot."""
    for family in ("iptables", "ip6tables"):
        program = shutil.which(f"{family}-{variant}")
        if program is None:
            raise RequirementError(f"bench: {family}-{variant} is missing", hint="install iptables: it is a rival")
        command = [program, "-t", "nat", "-A", "POSTROUTING", "-o", UPLINK, "-j", "MASQUERADE"]
        if namespaces.run(built.plan.node, command, lab=built.name, timeout=_COMMAND_S).returncode:
            return False
    return True


def iptables(contender: Contender, version: int, *arguments: str) -> str:
    """Run iptables(8) or ip6tables(8), of the variant in the contender's name; return what it prints."""
    variant = contender.name.rpartition("(")[2].rstrip(")")
    program = f"{'iptables' if version == 4 else 'ip6tables'}-{variant}"
    built = contender.lab
    done = namespaces.run(built.plan.node, [program, *arguments], lab=built.name, timeout=_COMMAND_S)
    if done.returncode:
        raise JetplaneError(f"bench: {program}: {done.stderr.decode(errors='replace').strip().partition(chr(10))[0]}")
    return done.stdout.decode()


def _reach_insides(built: Lab) -> None:
    """Let the first subscriber answer for the idle peers' inner addresses as well."""
    peers = [ipv4 for ipv4, _ in built.plan.idle_peers(built.options.peers)[:: len(built.plan.tunnels)]]
    for network in ipaddress.summarize_address_range(peers[0], peers[-1]) if peers else ():
        ip = ["ip", "route", "add", "local", str(network), "dev", "lo", "table", "local"]
        if namespaces.run(built.plan.subscribers[0].namespace, ip, lab=built.name, timeout=_COMMAND_S).returncode:
            raise JetplaneError(f"bench: {network} cannot be made the subscriber's own")


def nft(built: Lab, *arguments: str, text: str = "") -> str:
    """Run nft(8) on the lab's node; return what it prints."""
    program = shutil.which("nft")
    if program is None:
        raise RequirementError("bench: nft is missing", hint="install nftables: it is a rival")
    command = [program, *arguments]
    done = namespaces.run(built.plan.node, command, lab=built.name, timeout=_COMMAND_S, stdin=text.encode())
    if done.returncode:
        raise JetplaneError(f"bench: nft: {done.stderr.decode(errors='replace').strip().partition(chr(10))[0]}")
    return done.stdout.decode()


def receive_frames(built: Lab, *interfaces: str) -> None:
    """Frames redirected into a veth are received by NAPI, which GRO switches on (drivers/net/veth.c)."""
    for interface in interfaces:
        switch(built, interface, "rx-gro", "on")


def receive_frames_at(place: Place) -> None:
    """The same at any end of a link."""
    namespaces.inside(place.namespace, lambda: features.write(Feature(place.interface, "rx-gro"), "on"))


def switch(built: Lab, interface: str, feature: str, value: str) -> None:
    """Switch an offload of one of the node's interfaces."""
    namespaces.inside(built.plan.node, lambda: features.write(Feature(interface, feature), value))


def cut_on_the_wire(built: Lab) -> None:
    """A wire carries no super-packets. veth does, unless a program at the far end keeps it from doing so, which would
    be jetplane's alone: so nobody gets them, and every node has GRO to make its own."""

    def work() -> None:
        for name, state in features.read_all(TO_NODE).items():
            if state.on and state.changeable and name.startswith("tx-") and "segmentation" in name:
                features.write(Feature(TO_NODE, name), "off")

    namespaces.inside(built.plan.internet, work)


def _same_offloads(made: list[Contender]) -> None:
    """Give the rivals the offloads that jetplane has set on its own node."""
    pairs: tuple[Callable[[Contender], str], ...] = (lambda _: UPLINK, lambda contender: contender.tunnel)
    for interface_of in pairs:
        wanted = _offloads(made[0], interface_of(made[0]))
        for rival in made[1:]:
            found = _offloads(rival, interface_of(rival))
            for name in wanted.keys() & found.keys():
                if wanted[name] != found[name]:
                    switch(rival.lab, interface_of(rival), name, wanted[name])


def _offloads(contender: Contender, interface: str) -> dict[str, str]:
    states = namespaces.inside(contender.lab.plan.node, lambda: features.read_all(interface))
    return {name: "on" if state.on else "off" for name, state in states.items() if state.changeable}
