"""One exit node: its WireGuard, network and data plane, kept as the configuration and the wanted peers say.

Everything here can be done again at any time; what is already as it should be is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from jetplane import abi, network, wireguard
from jetplane.collecting import uncollected
from jetplane.config import Config
from jetplane.dataplane.node import DataPlane
from jetplane.errors import BackendError, PeerError
from jetplane.held import Held
from jetplane.indices import FreeIndices
from jetplane.journal import Journal
from jetplane.model import InnerAddress, Observed, Peer, PublicKey
from jetplane.plan import (
    Entry,
    EntryPlan,
    PeerStep,
    RemoveEntry,
    RemovePeer,
    changing_hands,
    choose_exit,
    plan_entries,
    plan_eviction,
    plan_peers,
    plan_some_entries,
)
from jetplane.secret import RotatingSecret
from jetplane.sources.tunnels import Tunnels
from jetplane.wireguard.absent import Absent
from jetplane.wireguard.interface import Device, WireGuard
from jetplane.wireguard.sweep import Sweeper

log = logging.getLogger("jetplane")

_CHUNK = 4096
"""Entries written to the data plane at a time."""

Wanted = Mapping[str, Mapping[PublicKey, Peer]]
"""Tunnel name → its wanted peers."""


@dataclass(frozen=True, slots=True)
class Applied:
    """How much a reconciliation had to change."""

    peer_steps: int
    entry_steps: int


class Node:
    """Joins the three parts of a node in this network namespace. Holds no endpoint, time or volume of any peer."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.wireguard: WireGuard = (
            Absent() if config.transport == "veth" else wireguard.choose(config.wireguard.backend)
        )
        self.dataplane = DataPlane(config)
        self.journal = Journal(config.run_directory / "journal.json")
        self._secret = RotatingSecret()
        self._tunnels = Tunnels(config)
        self._held: dict[str, Held] = {}  # without an entry, what the interface holds is not known
        self._seen: dict[str, Observed] = {}  # by interface; not yet compared with what is held
        self._free: FreeIndices | None = None
        self._sweepers: dict[str, Sweeper] = {}

    def bring_up(self) -> None:
        """Make links, network and data plane as configured. The fail-closed rules stand before the first packet."""
        for tunnel in self.config.tunnel:
            self._refuse_foreign(tunnel.name)
            self.journal.record_tunnel(tunnel.name, self.wireguard.kind)
            self.wireguard.create(tunnel.name)
            self.wireguard.configure(Device(tunnel.name, tunnel.listen_port, tunnel.private_key_file))
        network.ensure(self.config, self.journal)
        for warning in self.dataplane.ensure().warnings:
            log.warning("%s", warning)
        self.refresh_addresses()
        self.keep_neighbours()

    def reconfigure(self, config: Config) -> None:
        """Follow a changed configuration; tunnels that it no longer names end."""
        kept = {tunnel.name for tunnel in config.tunnel}
        for tunnel in self.config.tunnel:
            if tunnel.name not in kept:
                self.wireguard.delete(tunnel.name)
                self._held.pop(tunnel.name, None)
                self._seen.pop(tunnel.name, None)
                if tunnel.name in self._sweepers:
                    self._sweepers.pop(tunnel.name).close()
        self.config, self._tunnels = config, Tunnels(config)
        self._free = None
        self.dataplane.close()
        self.dataplane = DataPlane(config)
        self.bring_up()

    def refresh_addresses(self) -> None:
        """Tell the data plane which addresses the uplink has now; DHCP and operators change them."""
        self.dataplane.set_own_addresses(network.uplink_addresses(self.config))

    def keep_neighbours(self) -> None:
        """Keep the next hops of relayed packets resolved, both ways; nothing to do without relays."""
        if self.config.relay.to:
            ends = (target.endpoint.host for target in self.config.relay.to)
            network.keep_neighbours(self.config.uplink.interface, ends)

    def observe(self) -> None:
        """Read from WireGuard which peers it has; needed at start and to notice what others changed."""
        self._seen = {t.name: self.wireguard.observe(t.name) for t in self.config.tunnel}

    @uncollected()
    def reconcile(self, wanted: Wanted) -> Applied:
        """Bring WireGuard and the data plane in line with the wanted peers. A tunnel that follows has the same."""
        wanted = {t.name: wanted.get(t.follows or t.name, {}) for t in self.config.tunnel}
        steps, changing = {}, set[InnerAddress]()
        for tunnel in self.config.tunnel:
            held = self._compared(tunnel.name, wanted.get(tunnel.name, {}))
            steps[tunnel.name] = plan_peers(wanted.get(tunnel.name, {}), held, held.peers)
            changing |= changing_hands(steps[tunnel.name], held)
        observed = self.dataplane.observe()
        applied = self._carry_out(steps, plan_entries(self._entries(wanted), observed, self.config.peers.max, changing))
        for tunnel in self.config.tunnel:
            self._held[tunnel.name] = Held(wanted.get(tunnel.name))
        return applied

    def apply_change(self, changed: Mapping[PublicKey, Peer | None]) -> Applied:
        """Change these peers and look at no other. None: gone.

        Raises PeerError, and changes nothing, when a peer claims an address that another one keeps; BackendError when
        it is not known what the node holds, at start or after a failure: observe, then reconcile.
        """
        free = self._free
        if free is None or any(t.name not in self._held for t in self.config.tunnel):
            raise BackendError("changing peers: what the node holds is not known", hint="it is looked at again soon")
        for name in tuple(self._seen):
            self._compared(name, {})
        parts = self._parts(changed)
        wanted, steps, changing = dict[str, dict[PublicKey, Peer]](), {}, set[InnerAddress]()
        for name, part in parts.items():
            held = self._held[name]
            seen = {key: held[key] for key in changed if key in held}
            wanted[name] = {key: peer for key, peer in part.items() if peer is not None}
            steps[name] = plan_peers(wanted[name], seen, held.peers)
            changing |= changing_hands(steps[name], seen)
        observed = self._entries_now(changed)
        applied = self._carry_out(steps, plan_some_entries(self._entries(wanted), observed.items(), free, changing))
        for name, change in parts.items():
            self._held[name].change(change)
        return applied

    def cut_off(self, key: PublicKey) -> bool:
        """End a peer here without knowing who is wanted; whether there was one. Looks at all that WireGuard holds."""
        found = False
        for tunnel in self.config.tunnel:
            peer = self.wireguard.observe(tunnel.name).get(key)
            if peer is None:
                continue
            found = True
            if tunnel.name in self._held:
                self._held[tunnel.name].change({key: None})
            if tunnel.name in self._seen:
                self._seen[tunnel.name] = {k: seen for k, seen in self._seen[tunnel.name].items() if k != key}
            self._free = None
            entries = self.dataplane.observe_some(peer.allowed_ips)
            known = {index: entry.addresses for index, entry in entries.items()}
            self.dataplane.apply([RemoveEntry(index) for index in entries], known)
            self.wireguard.apply(tunnel.name, [RemovePeer(key)])
        return found

    def evict(self) -> bool:
        """Make WireGuard forget some idle peers' sessions, or look for such peers; a step that never waits.

        Returns whether there are more to evict now. The peers stay, and so do their flows in the data plane.
        """
        if self.wireguard.kind == "veth":
            return False  # no sessions
        for tunnel in self.config.tunnel:
            if idle := self._sweeper(tunnel.name).take():
                try:
                    self.wireguard.apply(tunnel.name, self._eviction(tunnel.name, idle))
                except Exception:
                    self._held.pop(tunnel.name, None)  # some may be removed and not added again
                    raise
        return any(sweeper.more for sweeper in self._sweepers.values())

    def close(self) -> None:
        """End the processes that look for idle peers; the node itself goes on."""
        while self._sweepers:
            self._sweepers.popitem()[1].close()

    def peers_observed(self, tunnel: str) -> int:
        """How many peers WireGuard was last seen to hold."""
        return len(self._held[tunnel] if tunnel in self._held else self._seen.get(tunnel, ()))

    def _refuse_foreign(self, name: str) -> None:
        """An interface that somebody else made is never taken over: `down` would remove it."""
        ours = self.wireguard.kind == "veth" or name in dict(self.journal.tunnels())
        if not ours and network.exists(name):
            raise BackendError(
                f"tunnel {name}: an interface of this name exists and is not jetplane's",
                hint="remove it, or give the tunnel another name",
            )

    def _compared(self, name: str, wanted: Mapping[PublicKey, Peer]) -> Held:
        """What the interface holds, by what was set and by what was seen of it since."""
        seen = self._seen.pop(name, None)
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = Held.adopted(seen.values() if seen else (), wanted)
        elif seen is not None:
            held.compare(seen.values())
        return held

    def _eviction(self, name: str, idle: Sequence[PublicKey]) -> tuple[PeerStep, ...]:
        """While nobody has said who is wanted, peers are added again as they were seen; secrets cannot be seen."""
        held = self._held.get(name)
        if held is not None:
            return plan_eviction(idle, held.peers)
        seen = [peer for key in idle if (peer := self._seen.get(name, {}).get(key))]
        again = {p.public_key: Peer(p.public_key, p.allowed_ips, None, p.persistent_keepalive) for p in seen}
        return plan_eviction(
            idle, again, {key for key in idle if key not in again} | {p.public_key for p in seen if p.has_preshared_key}
        )

    def _sweeper(self, name: str) -> Sweeper:
        if name not in self._sweepers:
            self._sweepers[name] = Sweeper(self.wireguard.kind, name)
        return self._sweepers[name]

    def _parts(self, changed: Mapping[PublicKey, Peer | None]) -> dict[str, dict[PublicKey, Peer | None]]:
        """Interface → what changes there; a peer that moves to another interface goes from where it was."""
        parts: dict[str, dict[PublicKey, Peer | None]] = {t.name: {} for t in self.config.tunnel}
        for key, peer in changed.items():
            for name, part in parts.items():
                if key in self._held[name]:
                    part[key] = None
            if peer is not None:
                home = self._tunnels.of(peer.allowed_ips)
                for tunnel in self.config.tunnel:
                    if home in (tunnel.name, tunnel.follows):
                        parts[tunnel.name][key] = peer
        return parts

    def _entries_now(self, changed: Mapping[PublicKey, Peer | None]) -> dict[int, Entry]:
        """The entries of these peers as they stand in the maps."""
        theirs = {
            address
            for held in self._held.values()
            for key in changed
            if (peer := held.peers.get(key))
            for address in peer.allowed_ips
        }
        claimed = {address for peer in changed.values() if peer is not None for address in peer.allowed_ips}
        if self.dataplane.observe_some(claimed - theirs):
            raise PeerError("changing peers: an address belongs to a peer that keeps it; nothing is changed")
        return self.dataplane.observe_some(theirs)

    def _carry_out(self, steps: Mapping[str, Sequence[PeerStep]], plan: EntryPlan) -> Applied:
        """First end what ends in the data plane, then change WireGuard, then give out what is new.

        So no packet of an address's new owner meets the flows of the old one, and no answer to these reaches the new.
        Until all has been done, what the node holds is not known.
        """
        held = {name: self._held.pop(name) for name in steps if steps[name]}
        self._free = None
        self.dataplane.apply([RemoveEntry(index) for index in plan.ends], plan.ends)
        for name in held:
            self.wireguard.apply(name, steps[name])
        while chunk := tuple(islice(plan.gives, _CHUNK)):
            self.dataplane.apply(chunk, {step.index: step.entry.addresses for step in chunk})
        self._held |= held
        self._free = plan.free
        return Applied(sum(map(len, steps.values())), plan.count)

    def _entries(self, wanted: Wanted) -> Mapping[InnerAddress, Entry]:
        """What the wanted peers are in the data plane, found by their first address."""
        followers = {tunnel.follows: tunnel.name for tunnel in self.config.tunnel if tunnel.follows}
        parts = (
            (
                (network.interface_index(name), network.interface_index(followers[name]) if name in followers else 0),
                {min(peer.allowed_ips): peer for peer in peers.values()},
            )
            for name, peers in wanted.items()
            if peers and name not in followers.values()
        )
        return _Entries(parts, self._entry)

    def _entry(self, peer: Peer, interfaces: tuple[int, int]) -> Entry:
        v4, v6 = len(self.config.exit.ipv4), len(self.config.exit.ipv6)
        none = abi.constants()["NO_EXIT"]
        first = choose_exit(peer.public_key, self._secret.current(), range(v4))
        second = choose_exit(peer.public_key, self._secret.current(), range(v4, v4 + v6))
        return Entry(
            addresses=_sorted(peer.allowed_ips),
            tunnel_ifindex=interfaces[0],
            next_ifindex=interfaces[1],
            exit_index=(none if first is None else first, none if second is None else second),
            rate=peer.rate,
            statistics=peer.statistics,
        )


class _Entries(Mapping[InnerAddress, Entry]):
    """First address → entry, made when it is asked for: 100,000 of them would fill the memory."""

    def __init__(
        self,
        parts: Iterable[tuple[tuple[int, int], Mapping[InnerAddress, Peer]]],
        make: Callable[[Peer, tuple[int, int]], Entry],
    ) -> None:
        self._parts, self._make = tuple(parts), make

    def __getitem__(self, first: InnerAddress) -> Entry:
        for interfaces, peers in self._parts:
            if first in peers:
                return self._make(peers[first], interfaces)
        raise KeyError

    def __iter__(self) -> Iterator[InnerAddress]:
        for _, peers in self._parts:
            yield from peers

    def __len__(self) -> int:
        return sum(len(peers) for _, peers in self._parts)


def _sorted(addresses: tuple[InnerAddress, ...]) -> tuple[InnerAddress, ...]:
    return tuple(sorted(addresses))


def take_down(config: Config) -> tuple[str, ...]:
    """Undo everything that was made here and nothing else; return what was undone, in the operator's words.

    Tunnels go first: no traffic, then no guard. Needs neither compiler nor peers; harmless when nothing is left.
    """
    journal = Journal(config.run_directory / "journal.json")
    undone = []
    for name, kind in journal.tunnels():
        wireguard.choose(kind).delete(name)
        undone.append(f"removed tunnel {name}")
    undone += network.restore(journal)
    undone += DataPlane(config).detach()
    return (*undone, "detached all programs, removed all maps")
