"""What the maps hold about the owner of some addresses, at this moment. For `jetplane peers report` alone."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from jetplane import abi
from jetplane.dataplane import entries
from jetplane.dataplane.maps import Map
from jetplane.model import InnerAddress

_TICK_SHIFT = 30  # ebpf/binding.h: a tick is 2^30 ns of CLOCK_MONOTONIC
_SEQUENCE_SHIFT, _STATE_SHIFT = 40, 32
_PORTS = 65536
_KIND_SHIFT, _DATAGRAM = 16, 1 << 31  # ebpf/dns.h: what a key of `steered` says beside the port


class About:
    """Reads the maps of one data plane. `exits` are its exit addresses in the order of their index."""

    def __init__(self, maps: Mapping[str, Map], exits: Sequence[str]) -> None:
        self._maps, self._exits = maps, exits
        self._protocols = _names("protocol", "PROTOCOL_")
        self._states = _names("binding_state", "BINDING_")
        self._own_slots = len(exits) * len(self._protocols) * _PORTS  # after them come connections at reused ports

    def owner(self, addresses: Collection[InnerAddress]) -> dict[str, Any] | None:
        """The entries of whoever owns these addresses; None when nobody does."""
        indices = set(entries.find(self._maps["addresses"], addresses).values())
        if not indices:
            return None
        return {
            "entries": [self._entry(index) for index in sorted(indices)],
            "bindings": list(self._bindings(addresses)),
            "connections_at_reused_ports": list(self._reuses(addresses)),
            "fragments": [fragment for index in sorted(indices) for fragment in self._fragments(index)],
            "questions": [question for index in sorted(indices) for question in self._questions(index)],
            "statistics": [self._statistics(index) for index in sorted(indices)],
        }

    def _entry(self, index: int) -> dict[str, Any]:
        peer = self._maps["peers"].lookup(index)
        exits = (self._exits[place] for place in peer.exit_index if place < len(self._exits))
        return {
            "index": index,
            "interface_index": peer.tunnel_ifindex,
            "seen_on_interface_index": peer.seen_ifindex or None,
            "exit_addresses": list(exits),
            "up_bytes_per_second": peer.rate_up,
            "down_bytes_per_second": peer.rate_down,
            "ahead_of_rate_ns": {
                **{name: _ahead(getattr(peer, name)) for name in ("up", "down", "answers")},
                "new_flows": _ahead(self._maps["new_flows"].lookup(index)),
            },
            **self._ports(index),
        }

    def _ports(self, index: int) -> dict[str, int]:
        """What it holds of ports, of both families and all protocols."""
        each = len(_names("family", "FAMILY_")) * len(self._protocols)
        held = [self._maps["peer_blocks"].lookup(index * each + place) for place in range(each)]
        return {
            "port_blocks": sum(1 for blocks in held for slot in blocks.slot if slot),
            "system_ports": sum(blocks.system_ports for blocks in held),
            "connections_at_reused_ports": sum(blocks.reuses for blocks in held),
        }

    def _bindings(self, addresses: Collection[InnerAddress]) -> Iterator[dict[str, Any]]:
        wanted = frozenset(map(bytes, addresses))
        found = {
            slot: key
            for keys, values in self._maps["endpoints"].chunks()
            for key, slot in zip(keys, values, strict=True)
            if bytes(key.address) in wanted
        }
        remotes = self._more_remotes(frozenset(found))
        for slot, key in found.items():
            binding = self._maps["bindings"].lookup(slot)
            if not _is_of(binding, key):
                continue  # it has ended since, and its place may be somebody else's
            more = remotes.get((slot, binding.life >> _SEQUENCE_SHIFT), [])
            yield {
                "protocol": self._protocols[key.protocol],
                "inner": _place(bytes(key.address), key.port),
                "exit_address": self._exits[slot // _PORTS // len(self._protocols)],
                "exit_port": slot % _PORTS,
                **self._life(binding.life),
                "remotes": [*map(_hash, filter(None, binding.remotes)), *more],
            }

    def _more_remotes(self, slots: frozenset[int]) -> dict[tuple[int, int], list[str]]:
        """(slot, sequence) → keyed hashes of remotes that did not fit into the binding."""
        found: dict[tuple[int, int], list[str]] = {}
        for keys, _ in self._maps["remotes"].chunks():
            for key in keys:
                if key.slot in slots:
                    found.setdefault((key.slot, key.sequence), []).append(_hash(key.remote))
        return found

    def _reuses(self, addresses: Collection[InnerAddress]) -> Iterator[dict[str, Any]]:
        wanted = frozenset(map(bytes, addresses))
        bindings = self._maps["bindings"]
        each = max(1, (bindings.info.max_entries - self._own_slots) // max(1, len(self._exits)))
        for key, slot in self._maps["reuse_inner"].items():
            if bytes(key.address) in wanted:
                binding = bindings.lookup(slot)
                if not _is_of(binding, key):
                    continue
                yield {
                    "protocol": "tcp",
                    "inner": _place(bytes(key.address), key.port),
                    "exit_address": self._exits[(slot - self._own_slots) // each],
                    "exit_port": binding.reused_port,
                    **self._life(binding.life),
                    "remotes": [_hash(key.remote)],
                }

    def _fragments(self, index: int) -> Iterator[dict[str, Any]]:
        """Datagrams that have come in fragments; the hash of one that is whole stays until the next sweep."""
        held = self._maps["peer_fragments"].lookup(index)
        for key in filter(None, held.key if held else ()):
            datagram = self._maps["fragments"].lookup(key)
            waits = datagram is not None and datagram.peer == index
            yield {"datagram": _hash(key), "first_came_s_ago": _idle(datagram.tick) if waits else None}

    def _questions(self, index: int) -> Iterator[dict[str, Any]]:
        """Of those that go to the node's resolver though others were asked."""
        steered = self._maps["steered"]
        for raw in steered.every_key():
            key = steered.key.from_buffer_copy(raw)
            question = steered.lookup(raw) if key.peer == index else None
            if question is not None:
                protocol = "udp" if key.what & _DATAGRAM else self._protocols[key.what >> _KIND_SHIFT >> 1]
                yield {
                    "protocol": protocol,
                    "inner": _place(bytes(question.inner), question.port),
                    "asked": InnerAddress(bytes(question.asked)).text().partition("/")[0],
                    "idle_s": _idle(question.tick),
                }

    def _statistics(self, index: int) -> dict[str, Any]:
        """What it has used of its clips, as far as that is of the running epoch: the rest says nothing any more."""
        peers, epochs = self._maps["peer_statistics"], self._maps["epochs"].lookup(0)
        shift = abi.constants()["EPOCH_SHIFT"]
        used = peers.lookup(index) if index < peers.info.max_entries else None
        words = {"active": epochs.active, "up": epochs.volume, "down": epochs.volume}
        counted = {
            name: getattr(used, name) & (1 << shift) - 1 if used and getattr(used, name) >> shift == epoch else 0
            for name, epoch in words.items()
        }
        return {
            "counted_active": bool(counted["active"]),
            "clip_used_up": counted["up"],
            "clip_used_down": counted["down"],
        }

    def _life(self, life: int) -> dict[str, Any]:
        return {"state": self._states[life >> _STATE_SHIFT & 0xFF], "idle_s": _idle(life & 0xFFFFFFFF)}


def _names(enumeration: str, prefix: str) -> tuple[str, ...]:
    return tuple(name.removeprefix(prefix).lower() for name in abi.enumeration(enumeration) if name.startswith(prefix))


def _is_of(binding: Any, key: Any) -> bool:
    """Whether what stands in a place is what the entry that led there is about."""
    return bytes(binding.inner) == bytes(key.address) and binding.inner_port == key.port


def _place(address: bytes, port: int) -> str:
    """`10.0.0.2 port 53`; the port is in network order, as in the key."""
    return f"{InnerAddress(address).text().partition('/')[0]} port {port >> 8 | (port & 0xFF) << 8}"


def _hash(value: int) -> str:
    return f"{value:016x}"


def _idle(tick: int) -> int:
    """Seconds since that tick, to a second."""
    now = time.monotonic_ns() >> _TICK_SHIFT
    return max(0, (now - tick) << _TICK_SHIFT) // 1_000_000_000


def _ahead(bucket: Any) -> int:
    return max(0, int(bucket.paid_until_ns) - time.monotonic_ns())
