"""The tables of the file, and what each key may be by itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import msgspec
import netaddr

from jetplane.endpoint import Endpoint
from jetplane.model import Rate

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
InterfaceName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table: unknown keys are refused."""


class Uplink(_Table, frozen=True):
    """The interface towards the internet and towards the subscribers' outer packets."""

    interface: InterfaceName
    xdp: Literal["auto", "native", "generic"] = "auto"
    replace_foreign_xdp: bool = False
    """Whether an XDP program of somebody else gives way to the guard, to be put back when the node goes down."""
    capacity_mbit: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    """What the line carries each way, in megabits (10^6) per second; 0: unknown, then no utilisation is published."""


class Exit(_Table, frozen=True):
    """Exit addresses: routed to this node; at best not assigned to any of its interfaces."""

    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()
    routed: bool = False
    """The operator says that they are routed to this node; else each must be assigned or on-link at the uplink."""


class Tunnel(_Table, frozen=True):
    """One WireGuard interface. `addresses` carry the prefix its peers' addresses come from."""

    name: InterfaceName
    listen_port: Port
    private_key_file: Path
    addresses: tuple[str, ...] = ()
    follows: str = ""
    """While the node's key changes: the tunnel whose peers this one takes, too, by its own key and port."""
    mtu: Annotated[int, msgspec.Meta(ge=1280, le=65535)] = 1420
    shards: Literal[1, 2, 4, 8, 16, 32, 64] = 1
    """Over how many interfaces it is spread; the configuration in use has that many tunnels in its place."""


class WireGuardSettings(_Table, frozen=True):
    """Which implementation of WireGuard carries the tunnels."""

    backend: Literal["auto", "kernel", "userspace"] = "auto"


class Plan(_Table, frozen=True):
    """What a peer may use; peers name their plan. Megabits (10^6) per second; 0: not limited."""

    up_mbit: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    down_mbit: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0

    @property
    def rate(self) -> Rate:
        """Bytes per second, as the data path counts."""
        return Rate(up=self.up_mbit * 125_000, down=self.down_mbit * 125_000)


class Peers(_Table, frozen=True):
    """Where the wanted peers come from: files of this node, or a bucket that the control plane keeps."""

    source: Literal["files", "nats"] = "files"
    path: Path = Path("peers.d")
    """A file, or a directory of files, in TOML, JSON or JSON Lines."""
    max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 4096
    default_plan: str = "standard"


_Name = r"[A-Za-z0-9_-]+"
"""What a name may consist of that is part of a NATS subject."""


class Nats(_Table, frozen=True):
    """A bucket of NATS JetStream's key-value store, the connection to it, and how this node is called there."""

    servers: tuple[str, ...] = ()
    bucket: Annotated[str, msgspec.Meta(pattern=rf"^({_Name})?$")] = ""
    node: Annotated[str, msgspec.Meta(pattern=rf"^({_Name}(\.{_Name})*)?$")] = ""
    """The key in `<bucket>-applied` under which this node tells what it has applied; empty: its host name."""
    credentials_file: str = ""  # here and below: a path, "" for none
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    resync_spread: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 60
    """Seconds over which the nodes of a fleet spread the full comparison that follows a reconnection."""


Filtering = Literal["endpoint-independent", "address", "address-and-port"]


class Nat(_Table, frozen=True):
    """NAT44 and NAT66. The timers are the RFCs' (4787, 5382, 5508) and cannot be set below their minimum."""

    filtering: Filtering = "address"
    inbound_refresh: bool = False
    block_quota: Annotated[int, msgspec.Meta(ge=1, le=32)] = 32
    port_parity: bool = False
    """Whether an even port is translated to an even one and an odd to an odd one, as long as there are such."""
    tcp_reuse: bool = False
    """Whether TCP may share ports among connections to different remotes when a peer has no port left."""
    tcp_reuse_flows: Annotated[int, msgspec.Meta(ge=1024, le=1_048_576)] = 131_072
    """Such connections at one exit address."""
    tcp_reuse_quota: Annotated[int, msgspec.Meta(ge=1, le=1_048_576)] = 4096
    """Such connections of one peer and family."""
    max_bindings: Annotated[int, msgspec.Meta(ge=1024, le=16_777_216)] = 262_144
    max_remotes: Annotated[int, msgspec.Meta(ge=1024, le=16_777_216)] = 262_144
    udp_timeout: Annotated[int, msgspec.Meta(ge=120, le=86_400)] = 300
    tcp_established_timeout: Annotated[int, msgspec.Meta(ge=7440, le=604_800)] = 7440
    tcp_transitory_timeout: Annotated[int, msgspec.Meta(ge=240, le=86_400)] = 240
    """Of a connection that nobody has answered."""
    tcp_closing_timeout: Annotated[int, msgspec.Meta(ge=240, le=86_400)] = 240
    """Of one that both ends have closed, or that was reset; as TIME-WAIT."""
    icmp_timeout: Annotated[int, msgspec.Meta(ge=60, le=86_400)] = 60


class Service(_Table, frozen=True):
    """A service of the node itself that the guard admits, from these prefixes only."""

    protocol: Literal["tcp", "udp"]
    port: Port
    sources: tuple[str, ...]


class Guard(_Table, frozen=True):
    """What the XDP program on the uplink lets in besides WireGuard and answers to subscribers."""

    observe: bool = False
    allow: tuple[Service, ...] = ()
    icmp_echo_per_second: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 100
    bogons: bool = True
    blocklists: tuple[Path, ...] = ()
    """Files with a prefix or address on each line; what follows # is a comment."""
    max_blocked: Annotated[int, msgspec.Meta(ge=1024, le=16_777_216)] = 1_048_576
    handshakes_per_second: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 10
    """Of one source prefix; 0: no budgets at all."""
    stranger_handshakes_per_second: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 2000
    """Of all prefixes that had no session lately together, on each CPU."""
    handshake_prefix_ipv4: Annotated[int, msgspec.Meta(ge=8, le=32)] = 32
    handshake_prefix_ipv6: Annotated[int, msgspec.Meta(ge=16, le=128)] = 64


class Policy(_Table, frozen=True):
    """Where subscribers may not go, besides to each other and to the node itself."""

    deny_private: bool = True
    """Whether PRIVATE is denied."""
    deny_own_networks: bool = True
    """The networks that the node's interfaces are in."""
    deny: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    """Prefixes that are reached in spite of all the others."""
    deny_ports: tuple[str, ...] = ("tcp/25",)
    new_flows_per_second: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 500
    """Of one peer, for as long as it likes; 0: no limit."""
    new_flows_burst: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 5000
    answer: Literal["prohibited", "silence"] = "prohibited"
    """What the subscriber hears: an ICMP error, at a rate, or nothing."""

    @property
    def ports(self) -> tuple[DeniedPorts, ...]:
        """`deny_ports`, read. Raises ValueError."""
        return tuple(map(DeniedPorts.parse, self.deny_ports))


class DeniedPorts(NamedTuple):
    """A port of every site, or several in a row."""

    protocol: str
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`tcp/25`, `udp/6881-6999`. Raises ValueError."""
        found = _PORTS.fullmatch(text)
        if not found:
            raise ValueError("is not of the form tcp/25 or udp/6881-6999")
        ports = cls(found["protocol"], int(found["first"]), int(found["last"] or found["first"]))
        if not 1 <= ports.first <= ports.last <= 65535:
            raise ValueError("names other ports than 1 to 65535, the lower one first")
        return ports


_PORTS = re.compile(r"(?P<protocol>tcp|udp)/(?P<first>[0-9]{1,5})(-(?P<last>[0-9]{1,5}))?", re.ASCII)

PRIVATE = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),  # RFC 1918, RFC 4193
    *("100.64.0.0/10", "fec0::/10", "64:ff9b:1::/48"),  # RFC 6598, RFC 3879, RFC 8215
    *("168.63.129.16/32", "192.0.0.192/32"),  # metadata services that are in none of these: Azure's, Oracle's
)
"""Prefixes behind which there are private networks and the metadata services of clouds, fd00:ec2::254 among them.

169.254.169.254 is link-local, which no router forwards, whatever the policy says.
"""

MOST_PREFIXES = 64
"""Of the policy, in all: each is compared with every packet."""


class Dns(_Table, frozen=True):
    """The node's own resolver, as subscribers reach it inside their tunnels. Running it is the operator's."""

    service: bool = False
    """Whether UDP and TCP port 53 of `addresses` is reached at all."""
    addresses: tuple[str, ...] = ()
    """Of the tunnels' own; the configuration in use has all of them where the file names none."""
    steer: bool = False
    """Whether what goes to port 53 of any other address is answered by the resolver as well."""


DNS_PORT = 53


class RelayTarget(_Table, frozen=True):
    """Another exit node that subscribers reach through this one: its WireGuard, as `address:port`."""

    listen_port: Port
    exit: str

    @property
    def endpoint(self) -> Endpoint:
        """`exit`, read. Raises ConfigurationError."""
        return Endpoint.parse(self.exit)


class Relay(_Table, frozen=True):
    """Multi-hop: what comes to a target's port here is passed on to it, still encrypted."""

    to: tuple[RelayTarget, ...] = ()
    first_port: Port = 20000
    """Exit nodes see each session at a port of its own, from here on upwards."""
    max_sessions: Annotated[int, msgspec.Meta(ge=64, le=32_768)] = 8192


_EpochLength = Annotated[int, msgspec.Meta(ge=2, le=86_400)]
_ClipMb = Annotated[int, msgspec.Meta(ge=1, le=500_000)]


class Metrics(_Table, frozen=True):
    """The exporter, on loopback, or elsewhere by TLS to clients with certificates; and what it may tell of traffic."""

    enabled: bool = True
    listen: str = "127.0.0.1"
    port: Port = 9586
    user: str = "nobody"
    tls_cert_file: str = ""  # here and below: a path, "" for none
    tls_key_file: str = ""
    tls_client_ca_file: str = ""
    design_peers: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Active peers the node is planned for, never how many it has. 0: no class D; below 1,000: only for sums."""
    active_epoch: _EpochLength = 3_600
    volume_epoch: _EpochLength = 86_400
    """Seconds, each a part of the day. Shorter than the defaults tells more of a peer's day than is promised."""
    up_clip_mb: _ClipMb = 4_000
    down_clip_mb: _ClipMb = 20_000
    """What counts of one peer in an epoch at most, in megabytes (10^6). Public."""

    @property
    def statistics(self) -> bool:
        """Whether figures of class D are made at all."""
        return self.enabled and self.design_peers > 0


class Client(_Table, frozen=True):
    """What `jetplane peers client-config` writes for subscribers; the node itself uses none of it."""

    endpoint: str = ""
    """Host name or address that subscribers dial; the port is their tunnel's."""
    dns: tuple[str, ...] = ()
    entries: dict[str, str] = msgspec.field(default_factory=dict)
    """Entry nodes that relay to this one, by name: `host:port`."""


class Config(_Table, frozen=True):
    """The whole file. Paths are absolute: relative ones are taken from the file's own directory."""

    uplink: Uplink
    exit: Exit
    tunnel: tuple[Tunnel, ...]
    peers: Peers = Peers()
    nats: Nats = Nats()
    wireguard: WireGuardSettings = WireGuardSettings()
    plan: dict[str, Plan] = msgspec.field(default_factory=lambda: {"standard": Plan()})
    nat: Nat = Nat()
    guard: Guard = Guard()
    policy: Policy = Policy()
    dns: Dns = Dns()
    relay: Relay = Relay()
    metrics: Metrics = Metrics()
    client: Client = Client()
    run_directory: Path = Path("/run/jetplane")
    transport: Literal["wireguard", "veth"] = "wireguard"
    """`veth`: Ethernet devices made beforehand for tunnels, to measure without cryptography. Not a VPN."""


def tunnel_networks(tunnel: Tunnel) -> tuple[netaddr.IPNetwork, ...]:
    """The prefixes that a tunnel's peers have their addresses in."""
    return tuple(netaddr.IPNetwork(text).cidr for text in tunnel.addresses)


def addresses_of(tunnel: Tunnel, config: Config) -> tuple[str, ...]:
    """The node's addresses behind a tunnel: its own, or those of the one that it follows."""
    return next(other.addresses for other in config.tunnel if other.name == (tunnel.follows or tunnel.name))


def resolvers_of(tunnel: Tunnel, config: Config) -> tuple[str, ...]:
    """Where a tunnel's peers reach the DNS service: at the addresses it has there, else at all that it has."""
    if not config.dns.service:
        return ()
    own = {text.partition("/")[0] for text in addresses_of(tunnel, config)}
    near = tuple(text for text in config.dns.addresses if text in own)
    return near or config.dns.addresses
