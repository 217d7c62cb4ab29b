"""What the pre-flight says of machines of every kind; each row is one machine, none of them is here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from jetplane.config import Config, parse
from jetplane.network.features import Channels, FeatureState
from jetplane.network.messages import HostRoute, LinkState
from jetplane.preflight import Check, judge
from jetplane.preflight.facts import Answer, Facts

WELL = Answer(True, "well")
EVERY_RIGHT = (1 << 41) - 1
UPLINK = LinkState("eth0", 2, up=True, running=True, ethernet=True, mtu=1500, kind="")
LOOPBACK = LinkState("lo", 1, up=True, running=True, ethernet=False, mtu=65536, kind="")
JET0 = LinkState("jet0", 9, up=True, running=True, ethernet=False, mtu=1420, kind="wireguard")
ON_FIXED = FeatureState(on=True, changeable=False)


def route(destination: str, interface: str = "eth0", *, gateway: bool = False) -> HostRoute:
    return HostRoute(ip_network(destination), interface, gateway)


DEFAULTS = (route("0.0.0.0/0", gateway=True), route("::/0", gateway=True))

FINE = Facts(
    capabilities=EVERY_RIGHT,
    release="6.12.48+deb13-amd64",
    bpf=WELL,
    jit=True,
    bpffs=True,
    compiler=Answer(True, "bcc 0.26.0"),
    headers=WELL,
    wireguard=Answer(True, "in the kernel"),
    links={"eth0": UPLINK, "lo": LOOPBACK},
    addresses=(("eth0", ip_interface("198.51.100.2/24")), ("eth0", ip_interface("2001:db8:1::2/64"))),
    routes=(*DEFAULTS, route("198.51.100.0/24"), route("2001:db8:1::/64")),
    driver="igb",
    programs=Answer(True, "none in the way"),
    listen_ports={"jet0": WELL},
    private_keys={"jet0": WELL},
    peers=WELL,
    peer_records=WELL,
    metrics_port=WELL,
    metrics_user=WELL,
    now=1_800_000_000.0,
)


def configure(**changes: Any) -> Config:
    tree = {
        "uplink": {"interface": "eth0"},
        "exit": {"ipv4": ["198.51.100.9"], "ipv6": ["2001:db8:1::9"]},
        "tunnel": [
            {"name": "jet0", "listen_port": 51820, "private_key_file": "k", "addresses": ["10.64.0.1/16", "fd64::1/64"]}
        ],
        "peers": {"path": "peers.toml"},
        **changes,
    }
    return parse(tree, Path("/etc/jetplane/jetplane.toml"))


@dataclass(frozen=True)
class Case:
    title: str
    facts: dict[str, Any]  # what differs from a machine that is fine
    row: str  # the only row that is not well
    ok: Any  # False or "warn"
    says: str
    hint: str = ""
    config: dict[str, Any] = field(default_factory=dict)


def links(**changes: Any) -> dict[str, Any]:
    return {"links": {"eth0": replace(UPLINK, **changes), "lo": LOOPBACK}}


def routes(*more: HostRoute) -> dict[str, Any]:
    return {"routes": (*FINE.routes, *more)}


def addresses(**more: str) -> dict[str, Any]:
    return {"addresses": (*FINE.addresses, *((name, ip_interface(text)) for name, text in more.items()))}


NATIVE = {"uplink": {"interface": "eth0", "xdp": "native"}}
GENERIC = {"uplink": {"interface": "eth0", "xdp": "generic"}}
VETH = {"transport": "veth"}
ROUTED_AWAY = {"exit": {"ipv4": ["203.0.113.7", "203.0.113.8"]}}
OWN_EXIT = {"exit": {"ipv4": ["198.51.100.2"]}}
JUMBO_TUNNEL = {
    "tunnel": [
        {"name": "jet0", "listen_port": 1, "private_key_file": "k", "addresses": ["10.64.0.1/16"], "mtu": 1440},
    ]
}


def relay(exit_node: str) -> dict[str, Any]:
    return {"relay": {"to": [{"listen_port": 51830, "exit": exit_node}]}}


RELAY = "relay at port 51830"
V4_ONLY = {
    "addresses": (("eth0", ip_interface("198.51.100.2/24")), ("eth0", ip_interface("fe80::2/64"))),
}

CASES = (
    Case(
        "a relay to itself",
        {},
        RELAY,
        False,
        "2001:db8:1::2 is this node's own, of eth0",
        "another exit node",
        config=relay("[2001:db8:1::2]:51820"),
    ),
    Case(
        "a relay to nowhere",
        {"routes": FINE.routes[1:]},
        RELAY,
        False,
        "there is no route to 203.0.113.99",
        "by the uplink",
        config=relay("203.0.113.99:51820") | {"exit": {"ipv6": ["2001:db8:1::9"]}},
    ),
    Case(
        "a relay by another interface",
        routes(route("203.0.113.96/27", "eth1")),
        RELAY,
        False,
        "is by eth1",
        "route it by eth0",
        config=relay("203.0.113.99:51820"),
    ),
    Case(
        "a relay in a family that the node does not speak",
        V4_ONLY,
        RELAY,
        False,
        "eth0 has no IPv6 address to send from",
        "the other family",
        config=relay("[2001:db8:9::9]:51820") | {"exit": {"ipv4": ["198.51.100.9"]}},
    ),
    Case("no root", {"capabilities": 0}, "rights", False, "missing: CAP_NET_ADMIN, CAP_SYS_ADMIN", "run as root"),
    Case("root without CAP_BPF", {"capabilities": EVERY_RIGHT & ~(1 << 39)}, "rights", False, "missing: CAP_BPF"),
    Case("a kernel that is too old", {"release": "5.10.0-30-amd64"}, "kernel", False, "6.1 is the oldest that works"),
    Case(
        "a kernel nobody tried", {"release": "7.3.1"}, "kernel", "warn", "7.3.1: jetplane was tried on 6.1, 6.12, 6.18"
    ),
    Case("a kernel that says nothing", {"release": "mine"}, "kernel", False, "mine: 6.1 is the oldest"),
    Case("no bpf file system", {"bpffs": False}, "BPF", False, "no bpf file system", "CONFIG_BPF_SYSCALL"),
    Case(
        "BPF forbidden",
        {"bpf": Answer(False, "loading: not permitted"), "jit": None},
        "BPF",
        False,
        "not permitted",
        "bpf(2)",
    ),
    Case("a wrong blocklist", {"blocklists": Answer(False, "b.txt:3: junk")}, "blocklists", False, "b.txt:3: junk"),
    Case(
        "a guard that observes",
        {},
        "guard",
        "warn",
        "drops nothing",
        "guard.observe",
        config={"guard": {"observe": True}},
    ),
    Case(
        "a resolver that does not listen",
        {"silent_resolvers": ("10.64.0.1 (udp)", "10.64.0.1 (tcp)")},
        "resolver",
        "warn",
        "nobody listens at port 53 of 10.64.0.1 (udp), 10.64.0.1 (tcp)",
        "start the node's resolver",
        config={"dns": {"service": True}},
    ),
    Case("no JIT", {"jit": False}, "BPF", "warn", "interpreted", "bpf_jit_enable=1"),
    Case(
        "the wrong bcc",
        {"compiler": Answer(False, "an unrelated one", "remove it")},
        "compiler",
        False,
        "unrelated",
        "remove it",
    ),
    Case(
        "no headers",
        {"headers": Answer(False, "missing", "install linux-libc-dev")},
        "headers",
        False,
        "missing",
        "linux-libc-dev",
    ),
    Case(
        "no WireGuard",
        {"wireguard": Answer(False, "no WireGuard", "modprobe")},
        "WireGuard",
        False,
        "no WireGuard",
        "modprobe",
    ),
    Case(
        "no uplink",
        {"links": {"lo": LOOPBACK, "wan0": UPLINK}},
        "uplink",
        False,
        "eth0: there is no such interface",
        "wan0",
    ),
    Case("uplink down", links(up=False, running=False), "uplink", False, "eth0: is down", "ip link set eth0 up"),
    Case("no cable", links(running=False), "uplink", "warn", "has no carrier"),
    Case("uplink without Ethernet", links(ethernet=False), "uplink", False, "is not Ethernet"),
    Case(
        "outer packets too big",
        {},
        "MTU",
        "warn",
        "1440 bytes and WireGuard's 80 do not fit eth0",
        "mtu = 1420",
        JUMBO_TUNNEL,
    ),
    Case("jumbo frames", links(mtu=9000), "MTU", "warn", "with 9000 bytes most drivers refuse XDP", "3498"),
    Case(
        "virtio-net with the host's offloads",
        {"driver": "virtio_net", "offloads": {"rx-gro-hw": ON_FIXED}},
        "XDP",
        "warn",
        "virtio_net refuses XDP",
        "guest_tso4=off",
    ),
    Case(
        "virtio-net with the host's offloads, and native wanted",
        {"driver": "virtio_net", "offloads": {"rx-gro-hw": ON_FIXED}},
        "XDP",
        False,
        "virtio_net refuses XDP",
        "generic",
        NATIVE,
    ),
    Case(
        "LRO that stays", {"offloads": {"rx-lro": ON_FIXED}}, "XDP", "warn", "rx-lro is on and cannot be switched off"
    ),
    Case(
        "ENA with every queue in use",
        {"driver": "ena", "channels": Channels(8, 8)},
        "XDP",
        "warn",
        "ena needs half of its 8 queues spare",
        "ethtool -L eth0 combined 4",
    ),
    Case(
        "gVNIC with five of eight",
        {"driver": "gve", "channels": Channels(5, 8)},
        "XDP",
        False,
        "gve needs half",
        "",
        NATIVE,
    ),
    Case("ixgbe", {"driver": "ixgbe"}, "XDP", "warn", "loses the link for seconds", "nothing to do"),
    Case("mlx5", {"driver": "mlx5_core"}, "XDP", "warn", "mlx5_core loses the link"),
    Case(
        "bnxt", {"driver": "bnxt_en"}, "XDP", "warn", "and at each change of the guard's settings", "together and at a"
    ),
    Case(
        "another's XDP program",
        {"programs": Answer(False, "eth0: an XDP program", "xdp off")},
        "other programs",
        False,
        "an XDP program",
        "xdp off",
    ),
    Case(
        "another's XDP program that is to give way",
        {"programs": Answer("warn", "eth0: other (id 5) gives way", "puts it back")},
        "other programs",
        "warn",
        "other (id 5) gives way",
        "puts it back",
    ),
    Case(
        "exit addresses missing",
        {},
        "exit addresses",
        False,
        "203.0.113.7 (and 1 more): neither assigned",
        "exit.routed = true",
        ROUTED_AWAY,
    ),
    Case("no way out for IPv6", {"routes": (DEFAULTS[0],)}, "default route", "warn", "none for IPv6"),
    Case(
        "a tunnel's name is taken",
        {"links": {**FINE.links, "jet0": JET0}},
        "tunnel jet0",
        False,
        "is not jetplane's",
        "another name",
    ),
    Case("no stand-in for the tunnel", {}, "tunnel jet0", False, "no such Ethernet interface", "beforehand", VETH),
    Case(
        "a stand-in that is no Ethernet",
        {"links": {**FINE.links, "jet0": JET0}},
        "tunnel jet0",
        False,
        "no such Ethernet",
        "",
        VETH,
    ),
    Case("no IPv6", {"ipv6": False}, "tunnel jet0", False, "this kernel has no IPv6"),
    Case(
        "peers' prefix is on the link",
        routes(route("10.64.0.0/16", "eth1")),
        "tunnel jet0",
        False,
        "clashes with 10.64.0.0/16, which is behind eth1",
    ),
    Case(
        "peers' prefix holds a network",
        routes(route("10.64.7.0/24", "eth1", gateway=True)),
        "tunnel jet0",
        False,
        "10.64.0.0/16 clashes with 10.64.7.0/24",
    ),
    Case(
        "peers' prefix lies in one on the link",
        routes(route("10.0.0.0/8", "eth1")),
        "tunnel jet0",
        False,
        "clashes with 10.0.0.0/8",
    ),
    Case(
        "peers' prefix holds an address",
        addresses(lo="10.64.9.9/32"),
        "tunnel jet0",
        False,
        "10.64.0.0/16 holds 10.64.9.9, an address of lo",
    ),
    Case(
        "the same for IPv6",
        routes(route("fd64::/48", "eth1")),
        "tunnel jet0",
        False,
        "fd64::/64 clashes with fd64::/48",
    ),
    Case(
        "IPv6 between others", addresses(eth1="fd01::1/64", eth2="fd02::1/64"), "forwarding", "warn", "among eth1, eth2"
    ),
    Case(
        "a port in use",
        {"listen_ports": {"jet0": Answer(False, "jet0: listen_port 51820: in use", "ss")}},
        "listen port",
        False,
        "in use",
        "ss",
    ),
    Case(
        "no private key",
        {"private_keys": {"jet0": Answer(False, "k: cannot be read", "wg genkey")}},
        "private key",
        False,
        "cannot be read",
        "genkey",
    ),
    Case("broken peers", {"peers": Answer(False, "peers.toml: is not TOML")}, "peers", False, "is not TOML"),
    Case("a bad record", {"peer_records": Answer(False, "peer[3]: not base64")}, "peer records", False, "peer[3]"),
    Case(
        "the exporter's port in use",
        {"metrics_port": Answer(False, "in use", "metrics.port")},
        "metrics port",
        False,
        "in use",
    ),
    Case(
        "the exporter's user missing",
        {"metrics_user": Answer(False, "no such user")},
        "metrics user",
        False,
        "no such user",
    ),
    Case(
        "the exporter's certificate",
        {"metrics_tls": Answer(False, "holds no certificate", "in PEM")},
        "metrics TLS",
        False,
        "holds no certificate",
    ),
    Case("conntrack at work", {"tracked": 7}, "conntrack", "warn", "who talks to whom", "notrack"),
    Case("a clock of 1970", {"now": 60.0}, "clock", False, "it is not 1970-01-01"),
    Case(
        "a clock of its own", {"clock_synchronised": False}, "clock", "warn", "nothing keeps it synchronised", "chrony"
    ),
    Case("swap", {"swap": True}, "swap", "warn", "may come to be on disk", "swapoff"),
    Case("kdump", {"crash_kernel": True}, "crash dumps", "warn", "keys and addresses included", "kdump"),
)


def not_well(rows: tuple[Check, ...]) -> list[Check]:
    return [row for row in rows if row.ok is not True]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_one_cause_fails_one_row_and_says_what_to_do(case: Case) -> None:
    rows = judge(configure(**case.config), replace(FINE, **case.facts))
    found = [row for row in not_well(rows) if case.config is not VETH or row.name != "WireGuard"]
    assert [(row.name, row.ok) for row in found] == [(case.row, case.ok)]
    assert case.says in found[0].detail and case.hint in found[0].hint
    assert "\n" not in found[0].detail + found[0].hint
    assert found[0].hint or case.ok is False, "a warning without advice helps nobody"


FINE_TOO = {
    "as it should be": ({}, {}),
    "routed, and the operator says so": ({}, {"exit": {**ROUTED_AWAY["exit"], "routed": True}}),
    "exit addresses of its own": ({}, OWN_EXIT),
    "a tunnel that jetplane made": ({"links": {**FINE.links, "jet0": JET0}, "own_tunnels": frozenset({"jet0"})}, {}),
    "a tunnel's own route": (routes(route("10.64.0.0/16", "jet0")), {}),
    "peers' prefix lies in one behind a router": (routes(route("10.0.0.0/8", "eth1", gateway=True)), {}),
    "ENA with queues to spare": ({"driver": "ena", "channels": Channels(4, 8)}, {}),
    "virtio-net that follows": ({"driver": "virtio_net", "offloads": {"rx-gro-hw": FeatureState(True, True)}}, {}),
    "a trap that generic XDP avoids": ({"driver": "virtio_net", "offloads": {"rx-gro-hw": ON_FIXED}}, GENERIC),
    "jumbo frames with generic XDP": (links(mtu=9000), GENERIC),
    "IPv6 forwarded already": ({**addresses(eth1="fd01::1/64", eth2="fd02::1/64"), "ipv6_forwarding": True}, {}),
    "conntrack that is idle": ({"tracked": 0}, {}),
    "martians that will not be logged": ({"log_martians": frozenset({"all"})}, {}),
}


@pytest.mark.parametrize("title", FINE_TOO)
def test_a_machine_that_is_fine_has_no_row_that_is_not(title: str) -> None:
    facts, changes = FINE_TOO[title]
    assert not_well(judge(configure(**changes), replace(FINE, **facts))) == []


def test_without_root_only_that_is_complained_of() -> None:
    refused = Answer(False, "permission denied")
    blind = replace(
        FINE,
        capabilities=0,
        bpf=refused,
        jit=None,
        programs=refused,
        private_keys={"jet0": refused},
        peers=refused,
        peer_records=None,
    )
    assert [row.name for row in not_well(judge(configure(), blind))] == ["rights"]


def test_plain_ethernet_is_never_shown_as_a_vpn() -> None:
    facts = replace(FINE, links={**FINE.links, "jet0": replace(UPLINK, name="jet0")}, wireguard=None)
    found = not_well(judge(configure(transport="veth"), facts))
    assert [(row.name, row.ok) for row in found] == [("WireGuard", "warn")]
    assert "not a VPN" in found[0].detail


def test_every_kind_of_exit_address_is_told() -> None:
    config = configure(exit={"ipv4": ["198.51.100.2", "198.51.100.9", "203.0.113.7"], "routed": True})
    [row] = [row for row in judge(config, FINE) if row.name == "exit addresses"]
    assert (
        "1 routed here" in row.detail and "1 answered for on eth0" in row.detail and "1 the machine's own" in row.detail
    )


def test_every_row_of_a_running_node_has_its_name() -> None:
    names = [row.name for row in judge(configure(), FINE)]
    assert names[0] == "rights", "what explains the rest comes first"
    assert len(names) == len(set(names))
