"""The data plane of one node: everything the rest of jetplane asks of BPF.

All of it happens in the current network namespace, and in the mount namespace whose bpffs holds the pins: whoever
enters a namespace by hand must enter the network namespace alone.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetplane import abi
from jetplane.config import Config
from jetplane.dataplane import (
    bpf,
    bpffs,
    entries,
    host,
    layout,
    load,
    migrate,
    objects,
    pins,
    run,
    specialise,
    toolchain,
)
from jetplane.dataplane.about import About
from jetplane.dataplane.hooks import Hooks
from jetplane.dataplane.links import Links, interface_index
from jetplane.dataplane.lists import Refresher
from jetplane.dataplane.maps import Map
from jetplane.dataplane.programs import Attachment
from jetplane.dataplane.statistics import Statistics
from jetplane.errors import KernelError
from jetplane.model import InnerAddress
from jetplane.plan import Entry, EntryStep

__all__ = ["DataPlane", "Ensured", "Swept"]

_SWEEP_RUNS = 8192
"""Blocks swept in one system call."""

_SHORTEST_PACKET = bytes(14)

_REMOTES_AT_LEAST, _REMOTES_PASSES = 65_536, 10
"""One sweep looks at so many entries of `remotes`, and at so much of the map that all have been seen after so many."""

_REMOTE_KEY, _STEERED_KEY = 16, 8  # bytes of struct remote_key and struct steered_key


@dataclass(frozen=True, slots=True)
class Ensured:
    """What `ensure` had to do."""

    loaded: bool  # the programs anew
    changed: tuple[str, ...]
    warnings: tuple[str, ...] = ()  # those of the changes that an operator should know of


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep over all bindings found."""

    expired: int
    released: int  # port blocks
    live: int
    forgotten: int  # remotes of bindings that have ended


class DataPlane:
    """Programs and maps of one configuration. Maps are opened when they are first needed."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._directory = config.run_directory
        self._pins = self._directory / "bpf"
        self._layout_file = self._directory / "layout.json"
        self._hooks = Hooks(config, self._pins, self._directory / "clsact.json", self._directory / "foreign.json")
        self._lists = Refresher(config.guard, pins=self._pins, layout=self._layout_file)
        self._maps: dict[str, Map] = {}
        self._remotes: Iterator[bytes] | None = None

    def close(self) -> None:
        """Close the maps' descriptors; everything stays as it is."""
        self._remotes = None
        while self._maps:
            self._maps.popitem()[1].close()

    def ensure(self) -> Ensured:
        """Compile and load if need be, fill the maps, attach or exchange the programs. Idempotent.

        Nothing is attached when an interface is missing, another's program is in the way or the compiler fails; when
        attaching itself fails, the programs that were there before are put back.
        """
        self._hooks.refuse_foreign()
        with ExitStack() as undo:
            if bpffs.mount(self._pins):
                undo.callback(bpffs.unmount, self._pins)
            undo.callback(self.close)
            before = layout.load(self._layout_file)
            undo.callback(pins.remove_others, self._pins, *self._directories(before))
            record, loaded = self._load(before)
            self._open(record)
            filled, attached = tuple(self._fill()), self._hooks.attach(self._pins / record.build)
            layout.save(self._layout_file, record)
            undo.pop_all()
        pins.remove_others(self._pins, *self._directories(record))
        warnings = tuple(done.text for done in attached if done.warning)
        return Ensured(loaded, (*filled, *(done.text for done in attached)), warnings)

    def attachments(self) -> tuple[Attachment, ...]:
        """What is attached, place by place; also when nothing is loaded."""
        return self._hooks.observe()

    def observe(self) -> Iterator[tuple[int, Entry]]:
        """(index, entry), as the maps hold them, in the order of indices."""
        return entries.observe(self._map("addresses"), self._map("peers"))

    def observe_some(self, addresses: Iterable[InnerAddress]) -> dict[int, Entry]:
        """The same of the peers that own these addresses, without a look at the others.

        All addresses of such a peer must be among them: what is not asked for is not seen.
        """
        return entries.observe_some(self._map("addresses"), self._map("peers"), addresses)

    def apply(self, steps: Sequence[EntryStep], known: Mapping[int, Sequence[InnerAddress]] | None = None) -> None:
        """Change entries; the bindings of one that is removed or becomes another peer are dead at once.

        `known` says which addresses the entries to change own now; without it, all addresses are looked through.
        """
        entries.apply(self._map("addresses"), self._map("peers"), steps, known, use_up=self.statistics.use_up)

    @property
    def statistics(self) -> Statistics:
        """What is summed up for figures of class D."""
        return Statistics({name: self._map(name) for name in Statistics.MAPS})

    def sweep(self) -> Swept:
        """Look at every binding once: dead ones go, empty port blocks return to the pool."""
        cursor = self._map("sweep_cursor")
        start = cursor.value(next_block=cursor.lookup(0).next_block)
        cursor.update(0, start)  # counts begin anew, the place does not
        places = self._map("blocks").info.max_entries + self._map("reuse_used").info.max_entries
        until = start.next_block + places
        with bpf.opened(bpf.obj_get(self._pins / self._record().build / "sweep")) as fd:
            while (left := until - cursor.lookup(0).next_block) > 0:
                _run(fd, min(left, _SWEEP_RUNS))
        if self._config.relay.to:
            self._run_sweep("sweep_relays", -(-self._config.relay.max_sessions // abi.constants()["RELAY_SWEPT"]))
        self._sweep_steered()
        end = cursor.lookup(0)
        return Swept(end.expired, end.released, end.live, self._sweep_remotes())

    def _sweep_remotes(self) -> int:
        """Show the program some of the keys in `remotes`, going on where the last sweep ended; return how many it
        removed. Keys only pass through: they are keyed hashes, and kept nowhere."""
        size = self._map("remotes").info.max_entries
        left, removed = max(_REMOTES_AT_LEAST, size // _REMOTES_PASSES), 0
        self._remotes = self._remotes or (keys for keys, _ in self._map("remotes").raw_chunks())
        with bpf.opened(bpf.obj_get(self._pins / self._record().build / "sweep_remotes")) as fd:
            while left > 0 and (keys := next(self._remotes, b"")):
                left -= len(keys) // self._map("remotes").info.key_size
                removed += sweep_remotes(fd, keys)
        if left > 0:
            self._remotes = None
        return removed

    def _sweep_steered(self) -> None:
        """Show the program the keys in `steered`: what stands there names whom subscribers asked, and stays unread."""
        if keys := self._map("steered").every_key():
            with bpf.opened(bpf.obj_get(self._pins / self._record().build / "sweep_steered")) as fd:
                sweep_steered(fd, b"".join(keys))

    def _run_sweep(self, name: str, runs: int) -> None:
        with bpf.opened(bpf.obj_get(self._pins / self._record().build / name)) as fd:
            _run(fd, runs)

    def counters(self) -> dict[str, int]:
        """Name → total, of every drop reason and every other counter, in the order of the .def files."""
        names = [*abi.drop_reasons(), *abi.counters()]
        return dict(zip(names, self._map("counters").sums(), strict=True))

    def capacities(self) -> dict[str, tuple[int, int]]:
        """Map → (largest number of elements, bytes of kernel memory)."""
        return {name: (self._map(name).info.max_entries, self._map(name).memory()) for name in abi.maps()}

    def set_own_addresses(self, addresses: Iterable[bytes]) -> None:
        """Tell the guard which addresses (16-byte forms) are the node's own.

        At an exit address among them, the ports that the node's own sockets use are kept from subscribers.
        """
        own = [bytes(address) for address in addresses]
        host.write_own_addresses(self._map("own_addresses"), self._map("own_slots"), own)
        host.write_relay_addresses(self._map("relay_addresses"), own, specialise.exits(self._config))
        host.reserve_blocks(self._map("pools"), host.own_exits(self._config, own), host.local_blocks(self._config))

    def refresh_source_lists(self) -> bool:
        """Read the blocklists if they have changed; True when they had.

        Raises ConfigurationError naming file and line, or KernelError; the lists then stay as they were.
        """
        return self._lists.refresh(self._map("source_words").info.id)

    def forget_sources(self) -> None:
        """Empty the older filter of known sources and make it the current one, and forget the prefixes that have not
        come for a handshake lately; due every KNOWN_SOURCES_S."""
        host.turn_known_sources(self._map("halves"), self._map("known_sources"))
        constants = abi.constants()
        self._run_sweep("sweep_budgets", constants["BUDGET_LINES"] // constants["BUDGETS_SWEPT"])

    def forget_own_ports(self) -> None:
        """Forget the ports that the node itself has not used lately; due every OWN_PORTS_S."""
        host.turn_own_ports(self._map("halves"), self._map("local_ports"))

    def about(self, addresses: Collection[InnerAddress]) -> dict[str, Any] | None:
        """Everything that the maps hold about the owner of these addresses, for its subject; None: nothing."""
        record = self._record()
        return About({name: self._map(name) for name in abi.maps()}, record.exits).owner(addresses)

    def draining(self) -> frozenset[int]:
        """The WireGuard ports at which the guard drops handshakes."""
        return frozenset(port for port, _ in self._map("draining").items())

    def set_draining(self, ports: Iterable[int]) -> None:
        """Let the guard drop handshakes at exactly these ports; sessions that are there go on."""
        wanted, have = frozenset(ports), self.draining()
        self._map("draining").update_many((port, 1) for port in wanted - have)
        self._map("draining").delete_many(have - wanted)

    def pins_are_private(self) -> bool:
        """Whether only root can reach maps and programs."""
        return bpffs.is_private(self._pins)

    def detach(self) -> tuple[str, ...]:
        """Detach everything of ours, unpin, unmount. Idempotent, and needs no compiler.

        Returns what was done about XDP programs of others that had given way, a line each.
        """
        self.close()
        put_back = self._hooks.detach()
        pins.remove_others(self._pins)
        bpffs.unmount(self._pins)
        if self._pins.is_dir():
            self._pins.rmdir()
        pins.remove(self._directory / "build")
        self._layout_file.unlink(missing_ok=True)
        return tuple(put_back)

    def _names(self) -> tuple[Path, Path, str]:
        """The directories of maps and programs, and the text of node.h."""
        texts = {
            path.name: path.read_text(encoding="utf-8")
            for path in abi.EBPF.iterdir()
            if path.suffix in objects.SUFFIXES
        }
        name = specialise.layout_hash(self._config, abi_h=texts["abi.h"], maps_def=texts["maps.def"])
        maps = self._pins / f"{pins.MAPS}{name}"
        uplink = interface_index(self._config.uplink.interface)
        with Links() as links:
            own = links.others([interface_index(tunnel.name) for tunnel in self._config.tunnel])
        facts = specialise.Facts(str(maps), uplink, own=own)
        header = specialise.node_header(self._config, facts)
        build = specialise.build_hash(header, texts.items(), toolchain.bcc_version())
        return maps, self._pins / f"{pins.PROGRAM_SETS}{build}", header

    def _load(self, before: layout.Record | None) -> tuple[layout.Record, bool]:
        """Have maps and programs of this configuration pinned; say what is, and whether it had to be loaded."""
        maps, programs, header = self._names()
        if before and before.layout == maps.name:
            pins.adopt(maps, {name: entry.id for name, entry in before.maps.items()})
            if before.build == programs.name and pins.are_whole(maps, programs, abi.maps()):
                return before, False
        pins.remove(programs)
        new = not maps.exists()
        loaded = load.load(
            header=header, maps=maps, programs=programs, build=self._directory / "build", sources=abi.EBPF
        )
        record = layout.Record(maps.name, programs.name, specialise.exits(self._config), loaded.maps)
        if before and new and migrate.is_possible(before, record):
            migrate.copy(self._pins, before, record)
        return record, True

    def _fill(self) -> Iterable[str]:
        """Write what the programs need before the first packet."""
        if not any(bytes(self._map("secrets").lookup(0))):
            self._map("secrets").update(0, secrets.token_bytes(self._map("secrets").info.value_size))
            yield "secrets made"
        host.write_services(self._map("services"), self._map("local_ports"), self._config.guard.allow)
        with Links() as links:
            self.set_own_addresses(links.addresses(interface_index(self._config.uplink.interface)))

    def _directories(self, record: layout.Record | None) -> tuple[Path, ...]:
        return (self._pins / record.layout, self._pins / record.build) if record else ()

    def _open(self, record: layout.Record) -> None:
        self.close()
        for name in abi.maps():
            self._maps[name] = Map(self._pins / record.layout, name, record.maps[name])

    def _map(self, name: str) -> Map:
        if not self._maps:
            self._open(self._record())
        return self._maps[name]

    def _record(self) -> layout.Record:
        record = layout.load(self._layout_file)
        if record is None or abi.maps().keys() - record.maps.keys():
            raise KernelError("no data plane is loaded", hint="start it: jetplane run")
        return record


def sweep_remotes(fd: int, keys: bytes) -> int:
    """Run `sweep_remotes` on keys of the map `remotes`, 16 bytes each; return how many it removed."""
    return _show(fd, keys, abi.constants()["SWEPT_REMOTES"] * _REMOTE_KEY)


def sweep_steered(fd: int, keys: bytes) -> int:
    """The same of `sweep_steered` and the map `steered`, whose keys have 8 bytes."""
    return _show(fd, keys, abi.constants()["SWEPT_STEERED"] * _STEERED_KEY)


def _show(fd: int, keys: bytes, step: int) -> int:
    header, starts = bytes(abi.constants()["SWEPT_HEADER"]), range(0, len(keys), step)
    return sum(run.prog_test_run(fd, header + keys[start : start + step]).verdict for start in starts)


def _run(fd: int, runs: int) -> None:
    """Run the sweep; a signal may end it early, but not before it has moved on."""
    try:
        run.prog_test_run(fd, _SHORTEST_PACKET, repeat=runs)
    except KernelError as error:
        if error.errno != errno.EINTR:
            raise
