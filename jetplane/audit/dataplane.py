"""Looks at BPF: every map and program that touches the node, found by their ids, not by what they are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from jetplane import abi
from jetplane.audit.calls import Calls
from jetplane.config import Config
from jetplane.dataplane import bpf, bpffs, layout, replaced
from jetplane.dataplane.links import Links, interface_index
from jetplane.dataplane.programs import PROGRAMS, Hook
from jetplane.errors import KernelError
from jetplane.privacy.facts import DataPlane, DeclaredMap, Map, Pin, Program

_KERNELS_OWN = frozenset({"maps.debug", "progs.debug"})
"""What the kernel puts into every new bpffs: lists of its maps and programs for who may enter (kernel/bpf/preload)."""

_TYPES = {"hash": 1, "array": 2, "percpu_hash": 5, "percpu_array": 6, "lru_hash": 9, "lpm_trie": 11}
"""bcc's table types as the kernel numbers them: enum bpf_map_type, linux/bpf.h."""


def gather(config: Config) -> DataPlane:
    """Look. Raises KernelError when no data plane is loaded."""
    root = config.run_directory / "bpf"
    if layout.load(config.run_directory / "layout.json") is None:
        raise KernelError("no data plane is loaded", hint="an audit looks at a live node: jetplane run")
    attached = dict(_attached(config))
    with ExitStack() as stack:
        pinned_maps, pinned_programs, pins = _pinned(root, stack)
        programs = _programs(attached, pinned_programs, stack)
        used = frozenset().union(*(program.map_ids for program in programs))
        sharing, elsewhere = _others(frozenset(pinned_maps) | used, {program.id for program in programs})
    return DataPlane(
        declared={name: DeclaredMap(_TYPES[one.kind], one.flags) for name, one in abi.maps().items()},
        programs_declared=frozenset(program.name for program in PROGRAMS),
        maps=tuple(_maps(pinned_maps, used)),
        programs=programs,
        sharing=sharing,
        mount_private=bpffs.is_private(root),
        pins=pins,
        elsewhere=elsewhere,
    )


def _attached(config: Config) -> Iterator[tuple[int, str]]:
    """Program id → place, of everything that sees packets of the node's devices."""
    with Links() as links:
        for name in (config.uplink.interface, *(tunnel.name for tunnel in config.tunnel)):
            index = interface_index(name)
            if found := links.xdp(index):
                yield found.prog_id, f"{name} xdp"
            for hook in (Hook.INGRESS, Hook.EGRESS):
                for entry in links.filters(index, hook):
                    if entry.prog_id:
                        yield entry.prog_id, f"{name} {hook.value}"
                for number in bpf.tcx_programs(index, egress=hook is Hook.EGRESS):
                    yield number, f"{name} tcx"


def _pinned(root: Path, stack: ExitStack) -> tuple[dict[int, bpf.MapInfo], dict[int, int], tuple[Pin, ...]]:
    """Maps by their id, programs' descriptors by their id, and every file of the bpffs.

    Another's program that is held to be put back is not the node's, and sees no packet unless it is attached again.
    """
    maps: dict[int, bpf.MapInfo] = {}
    programs: dict[int, int] = {}
    pins = []
    for path in sorted(root.rglob("*")):
        with suppress(FileNotFoundError, KernelError):  # a new set of programs is exchanged for the old one
            status, what = path.stat(), "directory"
            if path.name in _KERNELS_OWN:
                what = "list"
            elif not path.is_dir():
                fd = stack.enter_context(bpf.opened(bpf.obj_get(path)))
                what = kind(fd)
                if what == "bpf-map":
                    info = bpf.map_info(fd)
                    maps[info.id] = info
                elif what == "bpf-prog" and path.parent != root / replaced.PINS:
                    programs[bpf.prog_info(fd).id] = fd
            pins.append(Pin(str(path.relative_to(root)), status.st_mode & 0o7777, status.st_uid, what))
    return maps, programs, tuple(pins)


def kind(fd: int) -> str:
    """What a descriptor of BPF is: "bpf-map", "bpf-prog", "bpf_link" (the name of its anonymous inode)."""
    return Path(f"/proc/self/fd/{fd}").readlink().name.removeprefix("anon_inode:")


def _programs(attached: Mapping[int, str], pinned: Mapping[int, int], stack: ExitStack) -> tuple[Program, ...]:
    calls = Calls()
    found = []
    for number in sorted(attached.keys() | pinned.keys()):
        with suppress(KernelError):  # gone in the meantime
            fd = pinned.get(number) or stack.enter_context(bpf.opened(bpf.prog_by_id(number)))
            found.append(_program(fd, attached.get(number, ""), number in pinned, calls.of(fd)))
    return tuple(found)


def _program(fd: int, place: str, ours: bool, calls: frozenset[str] | None) -> Program:
    info = bpf.prog_info(fd)
    return Program(info.id, info.name, place, ours, info.map_ids, calls)


def _others(maps: frozenset[int], ours: set[int]) -> tuple[tuple[Program, ...], int]:
    """Other programs of this machine that use a map of the node, and how many there are that do not."""
    sharing, elsewhere = [], 0
    for number in bpf.prog_ids():
        if number in ours:
            continue
        with suppress(KernelError), bpf.opened(bpf.prog_by_id(number)) as fd:
            program = _program(fd, "", False, frozenset())
            if program.map_ids & maps:
                sharing.append(program)
            else:
                elsewhere += 1
    return tuple(sharing), elsewhere


def _maps(pinned: Mapping[int, bpf.MapInfo], used: frozenset[int]) -> Iterator[Map]:
    for info in pinned.values():
        yield Map(info.id, info.name, info.type, info.flags, pinned=True)
    for number in sorted(used - pinned.keys()):
        with suppress(KernelError), bpf.opened(bpf.map_by_id(number)) as fd:
            info = bpf.map_info(fd)
            yield Map(info.id, info.name, info.type, info.flags)
