"""What the checks know of the machine, and what they say about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from jetplane.config import Config
from jetplane.network.features import Channels, FeatureState
from jetplane.network.messages import HostRoute, Interface, LinkState

# linux/capability.h, and why.
CAPABILITIES = {
    12: "CAP_NET_ADMIN",  # links, routes, WireGuard, attaching programs
    21: "CAP_SYS_ADMIN",  # mounting a bpffs of its own
    38: "CAP_PERFMON",  # programs that read packets
    39: "CAP_BPF",  # loading programs
}


@dataclass(frozen=True, slots=True)
class Check:
    """One row: what was looked at, what was found, and what to do if that is not well."""

    name: str
    ok: bool | Literal["warn"]
    detail: str
    hint: str = ""

    @property
    def failed(self) -> bool:
        """Whether the node may not start."""
        return self.ok is False


@dataclass(frozen=True, slots=True)
class Answer:
    """What another part of jetplane said when it was asked: what it found, or its error and what to do."""

    ok: bool | Literal["warn"]
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything the checks judge by. None: could not be asked, for a reason that another row names."""

    capabilities: int  # bits of capabilities(7) that are effective
    release: str  # of the kernel
    bpf: Answer
    jit: bool | None
    bpffs: bool
    compiler: Answer
    headers: Answer
    wireguard: Answer | None  # None: plain Ethernet in its place

    links: Mapping[str, LinkState]
    addresses: tuple[tuple[str, Interface], ...]
    routes: tuple[HostRoute, ...]
    driver: str  # of the uplink, as everything below
    offloads: Mapping[str, FeatureState] = field(default_factory=dict)
    channels: Channels | None = None
    programs: Answer | None = None  # whether others' BPF programs are in the way
    ipv6: bool = True
    ipv6_forwarding: bool = False

    own_tunnels: frozenset[str] = frozenset()  # interfaces that jetplane has made
    listen_ports: Mapping[str, Answer] = field(default_factory=dict)  # tunnel → its port; not the ports it has
    private_keys: Mapping[str, Answer] = field(default_factory=dict)  # tunnel → its file
    peers: Answer
    peer_records: Answer | None = None  # None: they cannot be read
    blocklists: Answer | None = None  # None: there are none
    silent_resolvers: tuple[str, ...] = ()  # addresses of the DNS service at which nobody listens
    metrics_port: Answer | None  # None: off, or served by this node already
    metrics_user: Answer | None
    metrics_tls: Answer | None = None

    tracked: int | None = None  # connections that conntrack remembers; None: there is no conntrack
    log_martians: frozenset[str] = frozenset()  # "all" and interfaces whose odd packets the kernel logs
    swap: bool = False
    crash_kernel: bool = False  # a crash of the kernel would be written to disk
    now: float = 0.0  # seconds since 1970
    clock_synchronised: bool = True

    def missing_rights(self) -> list[str]:
        """Names of the capabilities that a node needs and this process lacks."""
        return [name for bit, name in CAPABILITIES.items() if not self.capabilities >> bit & 1]

    def answered(self, name: str, answer: Answer | None) -> Iterator[Check]:
        """A row that says what another part said. Without rights it may have failed for just that: no row then."""
        if answer and (answer.ok or not self.missing_rights()):
            yield Check(name, answer.ok, answer.detail, answer.hint)


Judgement = Callable[[Config, Facts], Iterator[Check]]
