"""What an audit knows of a node. Gathered by `jetplane.audit`; nothing here names a peer or holds a secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

CONTROLLER, EXPORTER, WIREGUARD_GO, HELPER = "controller", "exporter", "wireguard-go", "helper"
"""The roles of processes. A helper is any other descendant of the controller."""


@dataclass(frozen=True, slots=True)
class Map:
    """A BPF map, by the kernel's id."""

    id: int
    name: str  # cut to 15 characters by the kernel
    type: int  # enum bpf_map_type
    flags: int
    pinned: bool = False  # in this node's bpffs


@dataclass(frozen=True, slots=True)
class Program:
    """A BPF program, by the kernel's id."""

    id: int
    name: str
    place: str  # "uplink0 xdp"; empty: pinned and attached nowhere
    ours: bool  # pinned in this node's bpffs
    map_ids: frozenset[int] = frozenset()
    calls: frozenset[str] | None = frozenset()  # kernel functions; None: this kernel does not tell


@dataclass(frozen=True, slots=True)
class Pin:
    """A file of the bpffs."""

    path: str
    mode: int
    uid: int
    kind: str  # "bpf-map", "bpf-prog", "directory", "list": the kernel's own; anything else is not jetplane's


@dataclass(frozen=True, slots=True)
class DeclaredMap:
    """A map as maps.def declares it."""

    type: int
    flags: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlane:
    """Everything of BPF that touches this node."""

    declared: Mapping[str, DeclaredMap]
    programs_declared: frozenset[str]
    maps: tuple[Map, ...]  # pinned here, or used by a program that is pinned here or attached here
    programs: tuple[Program, ...]  # pinned here, or attached to a device of the node
    sharing: tuple[Program, ...]  # others that use a map of ours
    mount_private: bool
    pins: tuple[Pin, ...]
    elsewhere: int = 0  # programs of others, on this machine and not here


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Settings and states of the kernel that could keep or tell something."""

    log_martians: Mapping[str, str]  # interface → value
    dynamic_debug: int | None  # call sites of the wireguard module that print; None: the kernel has no such thing
    tracked: int | None  # connections that conntrack remembers in this namespace; None: there is no conntrack
    path_mtu_expires: Mapping[str, int]  # sysctl → seconds
    swap: bool
    core_pattern: str
    crash_kernel: bool
    captures: tuple[str, ...]  # packet sockets that see every packet, or a tunnel's: "tcpdump (pid 7) on jet0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of the node."""

    pid: int
    role: str
    uids: frozenset[int]
    locked_kb: int  # VmLck
    swapped_kb: int  # VmSwap
    may_swap: bool  # its control group allows it
    core_limit: str  # the soft limit: "0", a number, or "unlimited"
    dumpable: bool
    capabilities: int  # every set together
    no_new_privileges: bool
    seccomp: int  # 0: none
    in_arguments: tuple[str, ...] = ()  # kinds of secrets found there
    in_environment: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()  # regular files that it holds open for writing
    descriptors: tuple[str, ...] = ()  # what else it holds: "netlink socket", "bpf-map", "directory /run/…"

    def __str__(self) -> str:
        return f"{self.role} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class Found:
    """A kind of secret that a search found in a process where it must not be."""

    pid: int
    kind: str  # "endpoint", "private key", "preshared key", "public key"
    form: str  # "binary", "text", "base64", "hexadecimal"
    count: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What searching the memory of processes came to."""

    pids: frozenset[int] = frozenset()  # those that were searched
    needles: int = 0  # secrets searched for
    peers: int = 0  # of so many peers that the tunnels have
    found: tuple[Found, ...] = ()
    trouble: str = ""  # why it could not be done


@dataclass(frozen=True, slots=True)
class Idle:
    """How many peers of one tunnel WireGuard remembers for too long."""

    tunnel: str
    peers: int
    overdue: int
    half_open: int
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """What a text that the node wrote was found to hold."""

    name: str
    lines: int
    found: Mapping[str, int] = field(default_factory=dict)  # kind of pattern → lines


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file of the run directory, by its path in it."""

    path: str
    mode: int
    uid: int
    found: tuple[str, ...] = ()  # kinds of secrets in it


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one exporter answered, in one format."""

    format: str
    first: bytes
    second: bytes
    changed: bool  # a new release came in between


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the manifest of metrics."""

    label: str  # its only label, or ""
    allows: Callable[[str], bool]  # whether a label may have this value


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What leaves the node as metrics."""

    manifest: Mapping[str, Metric]
    scrapes: tuple[Scrape, ...]
    trouble: str = ""  # why the exporter could not be asked
    enabled: bool = True
    listeners: int = 0  # others that were asked for /metrics
    co_exporters: tuple[str, ...] = ()  # "port 9100: node_network_transmit_bytes_total of jet0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything the checks judge by."""

    dataplane: DataPlane
    kernel: Kernel
    processes: tuple[Process, ...]
    memory: Memory
    idle: tuple[Idle, ...]
    logs: tuple[Log, ...]
    run_files: tuple[RunFile, ...]
    run_directory: str
    run_file_system: str
    release: Release
