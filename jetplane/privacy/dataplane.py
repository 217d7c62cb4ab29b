"""Judges BPF: every map and program that touches the node's devices is of the manifest, and nothing streams out."""

from __future__ import annotations

from collections.abc import Iterator

from jetplane.privacy.facts import DataPlane, DeclaredMap, Facts
from jetplane.privacy.question import Answer, Question, answer

_STREAMS = {4: "a perf buffer", 27: "a ring buffer", 31: "a user ring buffer"}  # enum bpf_map_type
_TELLS = ("trace_printk", "trace_vprintk", "perf_event_output", "skb_event_output", "xdp_event_output", "ringbuf_")
_PINNED = frozenset({"bpf-map", "bpf-prog", "directory", "list"})
_SHOWN_NAME = 15  # of a map or a program, by the kernel


def _maps(facts: Facts) -> Answer:
    plane = facts.dataplane
    looked = f"{len(plane.maps)} maps by their ids, of {len(plane.programs)} programs and of the node's bpffs"
    return answer(looked, tuple(_map_findings(plane)), "exactly those of the manifest, with its types and flags", _STOP)


def _map_findings(plane: DataPlane) -> Iterator[str]:
    declared: dict[str, set[DeclaredMap]] = {}  # the names of two maps may be cut to the same
    for name, declaration in plane.declared.items():
        declared.setdefault(name[:_SHOWN_NAME], set()).add(declaration)
    for one in plane.maps:
        wanted = declared.get(one.name, set())
        if one.type in _STREAMS:
            yield f"map {one.id} {one.name!r} is {_STREAMS[one.type]}: it carries events out of the kernel"
        elif not wanted:
            yield f"map {one.id} {one.name!r} is not of the manifest"
        elif DeclaredMap(one.type, one.flags) not in wanted:
            yield f"map {one.id} {one.name!r} has type {one.type} and flags {one.flags:#x}: not as declared"
    pinned = [one for one in plane.maps if one.pinned]
    missing = declared.keys() - {one.name for one in pinned}
    yield from (f"map {name} is not pinned" for name in sorted(missing))
    if not missing and len(pinned) > len(plane.declared):
        yield f"{len(pinned)} maps are pinned, {len(plane.declared)} declared"


def _programs(facts: Facts) -> Answer:
    plane = facts.dataplane
    told = all(program.calls is not None for program in plane.programs)
    looked = f"{len(plane.programs)} programs on the node's devices and in its bpffs, by their ids"
    looked += ", and every kernel function they call" if told else "; this kernel does not tell what they call"
    well = f"jetplane's own only; none prints or streams; {plane.elsewhere} of others elsewhere on this machine"
    return answer(looked, tuple(_program_findings(plane)), well, _STOP)


def _program_findings(plane: DataPlane) -> Iterator[str]:
    names = {name[:_SHOWN_NAME] for name in plane.programs_declared}
    for program in plane.programs:
        where = f" at {program.place}" if program.place else ""
        if not program.ours or program.name not in names:
            yield f"program {program.id} {program.name!r}{where} is not jetplane's"
        tells = sorted(call for call in program.calls or () if any(word in call for word in _TELLS))
        if tells:
            yield f"program {program.name}{where} calls {', '.join(tells)}"
    for program in plane.sharing:
        yield f"program {program.id} {program.name!r}, not jetplane's, uses a map of the node"


def _pins(facts: Facts) -> Answer:
    plane = facts.dataplane
    broken = [] if plane.mount_private else ["the bpffs is not mounted, or others than root may enter it"]
    broken += [f"{pin.path}: mode {pin.mode:04o}, owner {pin.uid}" for pin in plane.pins if _is_open(pin.mode, pin.uid)]
    broken += [f"{pin.path} is a {pin.kind}" for pin in plane.pins if pin.kind not in _PINNED]
    looked = f"the bpffs and {len(plane.pins)} files in it"
    hint = "chmod 0700 the bpffs and 0600 what is pinned in it; then find out who changed it"
    return answer(looked, broken, "root's alone", hint)


def _is_open(mode: int, uid: int) -> bool:
    return uid != 0 or bool(mode & 0o077)


_STOP = "look at it with bpftool; restart the data plane: jetplane down, then jetplane run"

QUESTIONS = (
    Question(
        "bpf-maps",
        "kernel memory holds what the manifest names, while sessions live; no buffer carries events out of it",
        _maps,
    ),
    Question(
        "bpf-programs",
        "packets pass jetplane's programs alone, and these tell nobody of a packet",
        _programs,
    ),
    Question("bpf-pins", "nobody but root reaches the maps", _pins),
)
