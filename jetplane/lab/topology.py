"""The lab: two subscribers, an exit node and an internet, each in a network namespace of its own.

     subscriber1                          internet                            node
    ┌────────────────────┐      ┌──────────────────────────┐      ┌─────────────────────────────┐
    │ outer0             │      │ provider1                │      │ uplink0                     │
    │ 100.64.1.2/30 ─────┼──────┼─ 100.64.1.1/30     node0 │      │ 198.51.100.2/30             │
    │ 2001:db8:c1::2     │      │          198.51.100.1/30─┼──────┼─2001:db8:100::2             │
    │                    │      │          2001:db8:100::1 │      │                             │
    │ tunnel             │      │                          │      │ exit addresses, routed here │
    │ 198.18.0.2         │      │ lo: the sites            │      │ 203.0.113.10 …              │
    │ 2001:db8:64::2     │      │ 192.0.2.10, .20          │      │ 2001:db8:e::10 …            │
    └────────────────────┘      │ 2001:db8:1::10, ::20     │      │                             │
     subscriber2                │                          │      │ tunnels                     │
    ┌────────────────────┐      │                          │      │ 198.18.0.1/15               │
    │ outer0             │      │ provider2                │      │ 2001:db8:64::1/64           │
    │ 100.64.2.2/30 ─────┼──────┼─ 100.64.2.1/30           │      │                             │
    └────────────────────┘      └──────────────────────────┘      └─────────────────────────────┘

Subscriber 1 reaches the node over IPv4, subscriber 2 over IPv6; everything else they send goes into their tunnel.
With `transport="veth"` plain Ethernet pairs between subscribers and node stand in the place of the tunnels: that is
for measuring the data plane and is not a VPN.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

from jetplane.errors import JetplaneError, RequirementError
from jetplane.lab import clients, leftovers, links, namespaces
from jetplane.lab.addresses import (
    GATEWAY_IPV4,
    GATEWAY_IPV6,
    NODE_IPV4,
    NODE_IPV6,
    OUTER,
    SITES_IPV4,
    SITES_IPV6,
    TO_NODE,
    TUNNEL_MTU,
    UPLINK,
    AddressPlan,
    LabOptions,
)
from jetplane.lab.addresses import plan as plan_addresses
from jetplane.lab.node import Node, metrics_url, write_files
from jetplane.lab.state import LabState, NodeState, SubscriberState
from jetplane.lab.waiting import wait_until

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a lab together with the process that built it."""

NOT_A_VPN = "none: plain veth, not a VPN"


class Lab:
    """A lab that stands. Made by `lab()` or `up()` only."""

    def __init__(self, name: str, options: LabOptions) -> None:
        self.name = name
        self.options = options
        self.directory = leftovers.DIRECTORY / name
        self.plan: AddressPlan = plan_addresses(name, options)
        self.node = Node(name, self.plan.node, self.directory)
        self.visitors = self.directory / "visitors.sock"
        self.wireguard = NOT_A_VPN
        self.public_keys: tuple[str, ...] = ()
        self._processes: list[subprocess.Popen[bytes]] = []

    def build(self) -> None:
        """Make everything up to the moment before the node's daemon starts."""
        leftovers.claim(self.name)
        for namespace in self.plan.namespaces.values():
            namespaces.create(namespace)
            namespaces.write_sysctls(namespace, {"ipv6/conf/default/accept_dad": 0})  # nobody else is on these links
        self._make_internet()
        self._make_node_links()
        self._serve()
        if self.options.transport == "wireguard":
            self._make_clients()
        else:
            self._make_pairs()

    def start(self) -> None:
        """Start the node's daemon, then let the subscribers connect."""
        self.node.start()
        if self.options.transport == "wireguard":
            for subscriber in self.plan.subscribers:
                clients.connect(subscriber)

    def reap(self) -> None:
        """Wait for the processes that were started here and have been ended."""
        for process in self._processes:
            process.wait()
        self.node.reap()

    def state(self) -> LabState:
        """Describe the lab."""
        return LabState(
            namespaces=self.plan.namespaces,
            subscribers=tuple(
                SubscriberState(str(s.inner_ipv4), str(s.inner_ipv6), s.interface, key)
                for s, key in zip(self.plan.subscribers, self.public_keys, strict=True)
            ),
            internet={"ipv4": SITES_IPV4, "ipv6": SITES_IPV6},
            node=NodeState(
                exit_ipv4=self.plan.exit_ipv4,
                exit_ipv6=self.plan.exit_ipv6,
                config=str(self.node.config),
                metrics=metrics_url(self.options),
                wireguard=self.wireguard,
                pid=self.node.pid,
            ),
        )

    def _make_internet(self) -> None:
        internet = self.plan.internet
        namespaces.write_sysctls(
            internet, {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1, "ipv4/icmp_ratelimit": 0}
        )
        sites = (*(f"{site}/32" for site in SITES_IPV4), *(f"{site}/128" for site in SITES_IPV6))
        links.set_up(links.End(internet, "lo", sites))
        for subscriber in self.plan.subscribers:
            links.pair(
                links.End(subscriber.namespace, OUTER, (str(subscriber.outer_ipv4), str(subscriber.outer_ipv6))),
                links.End(
                    internet, subscriber.provider_link, (str(subscriber.provider_ipv4), str(subscriber.provider_ipv6))
                ),
            )

    def _make_node_links(self) -> None:
        node, internet = self.plan.node, self.plan.internet
        links.pair(
            links.End(node, UPLINK, (str(NODE_IPV4), str(NODE_IPV6))),
            links.End(internet, TO_NODE, (str(GATEWAY_IPV4), str(GATEWAY_IPV6))),
        )
        links.add_routes(node, [("0.0.0.0/0", str(GATEWAY_IPV4.ip), UPLINK), ("::/0", str(GATEWAY_IPV6.ip), UPLINK)])
        links.add_routes(
            internet,
            [(f"{address}/32", str(NODE_IPV4.ip), TO_NODE) for address in self.plan.exit_ipv4]
            + [(f"{address}/128", str(NODE_IPV6.ip), TO_NODE) for address in self.plan.exit_ipv6],
        )

    def _serve(self) -> None:
        command = [
            sys.executable,
            "-m",
            "jetplane.lab.servers",
            "--record",
            str(self.visitors),
            *SITES_IPV4,
            *SITES_IPV6,
        ]
        with (self.directory / "servers.log").open("ab") as log:
            process = namespaces.spawn(self.plan.internet, command, lab=self.name, stdout=log, stderr=log)
        self._processes.append(process)
        wait_until("the lab's servers", self.visitors.exists, process, seconds=20)

    def _make_clients(self) -> None:
        private_keys = [clients.generate_private_key() for _ in self.plan.subscribers]
        self.public_keys = tuple(map(clients.public_key, private_keys))
        node_key = write_files(self.directory, self.plan, self.options, self.public_keys)
        for number, (subscriber, private_key) in enumerate(zip(self.plan.subscribers, private_keys, strict=True)):
            links.add_routes(
                subscriber.namespace,
                [
                    (f"{NODE_IPV4.ip}/32", str(subscriber.provider_ipv4.ip), OUTER),
                    (f"{NODE_IPV6.ip}/128", str(subscriber.provider_ipv6.ip), OUTER),
                ],
            )
            process = clients.make_interface(
                subscriber.namespace,
                subscriber.interface,
                lab=self.name,
                backend=self.options.backend,
                log=self.directory / f"{subscriber.interface}.log",
            )
            self.wireguard = "userspace" if process else "kernel"
            self._processes += [process] if process else []
            clients.configure(
                subscriber,
                lab=self.name,
                directory=self.directory,
                private_key=private_key,
                node_key=node_key,
                endpoint=f"[{NODE_IPV6.ip}]" if number % 2 else str(NODE_IPV4.ip),
            )

    def _make_pairs(self) -> None:
        """Ethernet in the place of tunnels. The peers file wants keys, so there are keys that nobody uses."""
        unused = [clients.public_key(clients.generate_private_key()) for _ in self.plan.subscribers]
        write_files(self.directory, self.plan, self.options, unused)
        self.public_keys = ("",) * len(self.plan.subscribers)
        for subscriber in self.plan.subscribers:
            tunnel = self.plan.tunnels[subscriber.tunnel]
            inner = (
                f"{subscriber.inner_ipv4}/{tunnel.ipv4.network.prefixlen}",
                f"{subscriber.inner_ipv6}/{tunnel.ipv6.network.prefixlen}",
            )
            links.pair(
                links.End(subscriber.namespace, subscriber.interface, inner), links.End(self.plan.node, tunnel.name)
            )
            for end in (links.End(subscriber.namespace, subscriber.interface), links.End(self.plan.node, tunnel.name)):
                links.set_up(end, mtu=TUNNEL_MTU)
            links.add_routes(
                subscriber.namespace,
                [
                    ("0.0.0.0/0", str(tunnel.ipv4.ip), subscriber.interface),
                    ("::/0", str(tunnel.ipv6.ip), subscriber.interface),
                ],
            )


@contextlib.contextmanager
def lab(options: LabOptions | None = None) -> Iterator[Lab]:
    """Build a lab whose node does not run yet (`Lab.start`); remove it on every way out.

    A second Ctrl-C while it is being removed is not heard. What an earlier, killed run left is removed first.
    """
    built = Lab(_free_name(), options or LabOptions())
    try:
        built.build()
        yield built
    finally:
        _remove(built.name)
        built.reap()


def up(options: LabOptions | None = None) -> LabState:
    """Build a lab with its node running and leave it standing; if anything fails, nothing is left."""
    built = Lab(_free_name(), options or LabOptions())
    try:
        built.build()
        built.start()
        state = built.state()
        (built.directory / "lab.json").write_text(json.dumps(state.as_json()))
        leftovers.set_owner(built.name, leftovers.Owner.this_process(standing=True))
    except BaseException:
        _remove(built.name)
        raise
    return state


def down(name: str | None = None) -> list[str]:
    """Remove the standing lab of this name, or all standing ones, and whatever killed runs left; return the names."""
    require_root()
    removed = leftovers.remove_abandoned()
    owners = {lab: leftovers.owner_of(lab) for lab in leftovers.labs()}
    standing = [lab for lab, owner in owners.items() if owner is not None and owner.standing]
    if name is not None:
        if name not in standing and name not in removed:
            raise JetplaneError(f"lab {name}: there is no such standing lab", hint=_which(standing))
        standing = [lab for lab in standing if lab == name]
    for lab_name in standing:
        leftovers.remove(lab_name)
    return removed + standing


def _which(standing: list[str]) -> str:
    return f"standing: {', '.join(standing)}" if standing else "none stands; `jetplane lab up` builds one"


def require_root() -> None:
    """Namespaces, links and programs of the kernel need root."""
    if os.geteuid() != 0:
        raise RequirementError("lab: needs root", hint="run it with sudo")


def _free_name() -> str:
    require_root()
    leftovers.remove_abandoned()
    return leftovers.free_name()


def _remove(name: str) -> None:
    """Remove a lab without hearing what would end it meanwhile; only the main thread can, and needs to, be deaf."""
    deaf = threading.current_thread() is threading.main_thread()
    before = [(sign, signal.signal(sign, signal.SIG_IGN)) for sign in ENDING if deaf]
    try:
        leftovers.remove(name)
    finally:
        for sign, handler in before:
            signal.signal(sign, handler)
