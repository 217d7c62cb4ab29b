"""The configuration file: what is accepted, and how what is not is told."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from jetplane import config
from jetplane.config import tables
from jetplane.errors import ConfigurationError

SAMPLE = Path(__file__).parents[2] / "deploy" / "jetplane.toml"

GOOD: dict[str, Any] = {
    "uplink": {"interface": "eth0"},
    "exit": {"ipv4": ["203.0.113.10"], "ipv6": ["2001:db8:e::10"]},
    "tunnel": [
        {
            "name": "jet0",
            "listen_port": 51820,
            "private_key_file": "jet0.key",
            "addresses": ["10.64.0.1/16", "fd64::1/64"],
        },
    ],
    "peers": {"path": "peers.d"},
}


def _with(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one value changed; `path` is dotted, numbers index lists."""
    tree = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    here: Any = tree
    for name in parents:
        here = here[int(name)] if name.isdigit() else here.setdefault(name, {})
    here[last] = value
    return tree


def test_the_sample_loads_and_names_every_key() -> None:
    loaded = config.load(SAMPLE)
    assert loaded.tunnel[0].private_key_file == SAMPLE.parent / "jet0.key"
    text = SAMPLE.read_text()
    named = (tables.Config, tables.Uplink, tables.Exit, tables.Tunnel, tables.Peers, tables.Plan, tables.Nat)
    named += (tables.Guard, tables.Service, tables.Metrics, tables.WireGuardSettings, tables.Nats, tables.Policy)
    named += (tables.Dns,)
    for table in named:
        for key in table.__struct_fields__:
            assert key in text, f"{table.__name__}.{key} is not in the sample"


def test_the_samples_comments_show_the_defaults() -> None:
    bare = config.parse(GOOD, Path("/etc/jetplane/jetplane.toml"))
    uncommented = "\n".join(
        line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
        for line in SAMPLE.read_text().splitlines()
    )
    shown = config.parse(tomllib.loads(uncommented), Path("/etc/jetplane/jetplane.toml"))
    assert (shown.nat, shown.policy, shown.dns, shown.metrics) == (bare.nat, bare.policy, bare.dns, bare.metrics)
    assert shown.wireguard == bare.wireguard
    assert shown.tunnel[0].mtu == bare.tunnel[0].mtu
    assert shown.guard.icmp_echo_per_second == bare.guard.icmp_echo_per_second
    assert (shown.run_directory, shown.transport) == (bare.run_directory, bare.transport)
    assert (shown.peers, shown.nats) == (bare.peers, bare.nats)
    assert (shown.uplink.xdp, shown.uplink.capacity_mbit) == (bare.uplink.xdp, bare.uplink.capacity_mbit)


BAD = [
    ("uplink.interfase", "eth0", "uplink.interfase: unknown key"),
    ("metrics.active_epoch", 7, "metrics.active_epoch = 7: expected seconds of which a whole number makes a day"),
    ("metrics.volume_epoch", 1, "metrics.volume_epoch = 1: expected `int` >= 2"),
    ("metrics.up_clip_mb", 600000, "metrics.up_clip_mb = 600000: expected `int` <= 500000"),
    ("nat.udp_timeout", 30, "nat.udp_timeout = 30: expected `int` >= 120"),
    ("nat.filtering", "none", 'nat.filtering = "none": invalid enum value'),
    ("exit.ipv4", ["203.0.113.300"], 'exit.ipv4 = "203.0.113.300": expected a unicast IPv4 address'),
    ("exit.ipv4", ["203.0.113.1", "203.0.113.1"], "expected each address once"),
    ("exit.ipv6", ["203.0.113.1"], 'exit.ipv6 = "203.0.113.1": expected a unicast IPv6 address'),
    ("exit.ipv4", ["127.0.0.1"], 'exit.ipv4 = "127.0.0.1": expected a unicast IPv4 address'),
    ("exit", {}, "exit: no exit address"),
    ("tunnel", [], "tunnel: is missing"),
    ("tunnel.0.listen_port", 0, "tunnel[0].listen_port = 0: expected `int` >= 1"),
    ("tunnel.0.name", "much-too-long-a-name", 'tunnel[0].name = "much-too-long-a-name": expected `str` matching'),
    ("tunnel.0.name", "eth0", 'tunnel[0].name = "eth0": expected a name other than the uplink\'s'),
    ("tunnel.0.addresses", ["10.64.0.1"], 'tunnel[0].addresses = "10.64.0.1": expected an address with the prefix'),
    ("tunnel.0.addresses", ["10.64.0.1/16", "10.64.7.1/24"], "expected a prefix that does not overlap 10.64.0.0/16"),
    ("tunnel.0.addresses", ["203.0.113.1/24"], "expected a prefix without the exit address 203.0.113.10"),
    ("tunnel.0.private_key_file", 7, "tunnel[0].private_key_file = 7: expected a path"),
    (
        "guard.allow",
        [{"protocol": "tcp", "port": 22, "sources": ["192.0.2.1/24"]}],
        "expected a prefix like 192.0.2.0/24",
    ),
    ("guard.allow", [{"protocol": "tcp", "port": 22, "sources": []}], "expected at least one prefix"),
    ("policy.deny", ["10.0.0.1/8"], 'policy.deny = "10.0.0.1/8": expected a prefix like 192.0.2.0/24'),
    ("policy.allow", ["home"], 'policy.allow = "home": expected a prefix like 192.0.2.0/24'),
    ("policy.deny", [f"192.0.2.{n}" for n in range(65)], "policy = 65: expected at most 64 prefixes"),
    ("policy.deny_ports", ["25"], 'policy.deny_ports = "25": expected something like tcp/25'),
    ("policy.deny_ports", ["icmp/8"], "is not of the form"),
    ("policy.deny_ports", ["tcp/0"], "names other ports than 1 to 65535"),
    ("policy.deny_ports", ["udp/70-60"], "names other ports than 1 to 65535, the lower one first"),
    ("policy.deny_ports", ["tcp/65536"], "names other ports than 1 to 65535"),
    ("policy.answer", "maybe", 'policy.answer = "maybe": invalid enum value'),
    ("dns.steer", True, "dns.steer = true: expected false while dns.service is"),
    (
        "dns",
        {"service": True, "addresses": ["10.64.0.53"]},
        'dns.addresses = "10.64.0.53": expected one of the tunnels',
    ),
    (
        "dns",
        {"service": True, "addresses": ["10.64.0.1/16"]},
        "expected an IPv4 or IPv6 address without a prefix length",
    ),
    ("dns", {"service": True, "addresses": ["fd64::1", "fd64:0::1"]}, "expected each address once"),
    ("dns", {"service": True, "steer": True, "addresses": ["fd64::1"]}, "expected an IPv4 address, too"),
    ("dns", {"service": True, "steer": True, "addresses": ["10.64.0.1"]}, "expected an IPv6 address, too"),
    ("metrics.listen", "localhost", 'metrics.listen = "localhost": expected an IPv4 or IPv6 address'),
    ("metrics.listen", "192.0.2.1", 'metrics.listen = "192.0.2.1": plain HTTP only goes over the loopback'),
    ("metrics.listen", "0.0.0.0", 'metrics.listen = "0.0.0.0": plain HTTP only goes over the loopback'),
    ("metrics.listen", "::", 'metrics.listen = "::": plain HTTP only goes over the loopback'),
    ("metrics.tls_cert_file", "c", "tls_cert_file, tls_key_file and tls_client_ca_file belong together"),
    (
        "metrics",
        {"listen": "192.0.2.1", "tls_cert_file": "c", "tls_key_file": "k"},
        "tls_cert_file, tls_key_file and tls_client_ca_file belong together",
    ),
    ("peers.default_plan", "gold", 'peers.default_plan = "gold": expected one of standard'),
    ("relay.to", [{"listen_port": 51830, "exit": "exit.example:51820"}], "expected address:port"),
    ("relay.to", [{"listen_port": 51830, "exit": "192.0.2.7"}], "expected address:port"),
    ("relay.to", [{"listen_port": 51830, "exit": "2001:db8::1:51820"}], "expected address:port"),
    ("relay.to", [{"listen_port": 51830, "exit": "192.0.2.7:70000"}], "expected address:port"),
    ("relay.to", [{"listen_port": 51830, "exit": "127.0.0.1:51820"}], "expected a unicast address"),
    ("relay.to", [{"listen_port": 51830, "exit": "203.0.113.10:51820"}], "this one would send to itself"),
    ("relay.to", [{"listen_port": 51830, "exit": "10.64.0.9:51820"}], "inside one of the tunnels"),
    ("relay.to", [{"listen_port": 51820, "exit": "192.0.2.7:51820"}], "expected a port that nothing else here"),
    ("relay.to", [{"listen_port": 20001, "exit": "192.0.2.7:51820"}], "a range of max_sessions ports without 20001"),
    (
        "relay",
        {"first_port": 60000, "to": [{"listen_port": 51830, "exit": "192.0.2.7:51820"}]},
        "max_sessions ports from there on, all below 61440",
    ),
    ("uplink", {}, "uplink.interface: is missing"),
    ("peers.source", "ftp", 'peers.source = "ftp": invalid enum value'),
    ("peers.source", "nats", 'nats.servers: is missing; peers.source = "nats" needs it'),
    ("nats.servers", ["nats://192.0.2.1:4222"], "expected tls://HOST:PORT, or nats://HOST:PORT on this machine's"),
    ("nats.servers", ["tls://u:p@192.0.2.1:4222"], "expected tls://HOST:PORT"),
    ("nats.bucket", "a.b", 'nats.bucket = "a.b": expected `str` matching'),
    ("nats.node", "a.>", 'nats.node = "a.>": expected `str` matching'),
    ("nats.tls_key_file", "k", "nats: tls_cert_file and tls_key_file belong together"),
]


def test_metrics_may_leave_the_machine_by_tls_with_client_certificates() -> None:
    files = {"tls_cert_file": "exporter.pem", "tls_key_file": "/keys/exporter.key", "tls_client_ca_file": "ca.pem"}
    metrics = config.parse(_with("metrics", {"listen": "::", **files}), Path("/etc/jetplane/jetplane.toml")).metrics
    assert metrics.tls_cert_file == "/etc/jetplane/exporter.pem" and metrics.tls_key_file == "/keys/exporter.key"
    assert config.parse(_with("metrics.listen", "::1"), Path("/etc/jetplane/jetplane.toml")).metrics.listen == "::1"


@pytest.mark.parametrize(("key", "value", "message"), BAD, ids=[f"{k}={v}"[:50] for k, v, _ in BAD])
def test_a_bad_value_is_told_with_file_key_and_expectation(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config.parse(_with(key, value), Path("/etc/jetplane/jetplane.toml"))
    assert str(caught.value).startswith("/etc/jetplane/jetplane.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


NEXT = {"name": "jet9", "listen_port": 51900, "private_key_file": "new.key", "follows": "jet0"}
FOLLOWERS = (
    ([NEXT], ""),
    ([NEXT | {"addresses": ["10.77.0.1/16"]}], 'addresses = ["10.77.0.1/16"]: expected none beside `follows`'),
    ([NEXT | {"follows": "jet7"}], 'follows = "jet7": expected the name of a tunnel that has addresses'),
    ([NEXT | {"follows": "jet9"}], "expected the name of a tunnel that has addresses"),
    ([NEXT, NEXT | {"name": "jet8", "listen_port": 51901}], "expected a tunnel that no other one follows"),
    ([{**NEXT, "follows": ""}], "addresses = []: expected at least one address"),
)


@pytest.mark.parametrize(("more", "says"), FOLLOWERS)
def test_a_tunnel_that_follows_another_has_no_addresses_of_its_own(more: list[dict[str, Any]], says: str) -> None:
    tree = _with("tunnel", [*GOOD["tunnel"], *more])
    if says:
        with pytest.raises(ConfigurationError) as caught:
            config.parse(tree, Path("x"))
        assert says in str(caught.value)
    else:
        parsed = config.parse(tree, Path("x"))
        assert config.addresses_of(parsed.tunnel[-1], parsed) == parsed.tunnel[0].addresses


def test_two_tunnels_must_differ_in_name_port_and_prefix() -> None:
    second = {"name": "jet1", "listen_port": 51821, "private_key_file": "k", "addresses": ["10.65.0.1/16"]}
    assert len(config.parse(_with("tunnel", [*GOOD["tunnel"], second]), Path("x")).tunnel) == 2
    for key, value in (("name", "jet0"), ("listen_port", 51820), ("addresses", ["10.64.128.1/24"])):
        with pytest.raises(ConfigurationError, match=rf"tunnel\[1\].{key}"):
            config.parse(_with("tunnel", [*GOOD["tunnel"], second | {key: value}]), Path("x"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[uplink\n", "is not TOML"), (b"\xff\xfe", "is not UTF-8"), (b"", "uplink: is missing")],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "jetplane.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        config.load(file)
    assert str(caught.value).startswith(f"{file}: ") and message in str(caught.value)


LINES = (
    (
        'to = [\n  { listen_port = 1, exit = "192.0.2.7:1" },\n  { listen_port = 2, exit = "x" },\n]',
        3,
        'to[1].exit = "x"',
    ),
    ('\n# of them\nto = [{ listen_port = 0, exit = "192.0.2.7:1" }]', 3, "to[0].listen_port = 0"),
    ("first_port = 20000\nfrist_port = 1", 2, "frist_port"),
)


@pytest.mark.parametrize(("lines", "line", "told"), LINES, ids=[told for _, _, told in LINES])
def test_a_bad_value_in_a_file_is_told_with_its_line(tmp_path: Path, lines: str, line: int, told: str) -> None:
    before, header, after = SAMPLE.read_text().partition("[relay]")
    file = tmp_path / "jetplane.toml"
    file.write_text(f"{before}{header}\n{lines}\n{after.partition(chr(10))[2]}")
    with pytest.raises(ConfigurationError) as caught:
        config.load(file)
    assert str(caught.value).startswith(f"{file}: line {before.count(chr(10)) + 1 + line}: relay.{told}: ")


def test_a_missing_file_says_which_option_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config.load(tmp_path / "none.toml")
    assert "cannot be read: No such file" in str(caught.value) and "--config" in caught.value.hint


@pytest.mark.parametrize(
    ("timer", "least", "source"),
    [
        ("udp_timeout", 120, "RFC 4787, REQ-5"),
        ("tcp_established_timeout", 7440, "RFC 5382, REQ-5"),
        ("tcp_transitory_timeout", 240, "RFC 5382, REQ-5"),
        ("tcp_closing_timeout", 240, "RFC 7857, section 2.1"),
        ("icmp_timeout", 60, "RFC 5508, REQ-2"),
    ],
)
def test_a_timer_below_what_its_rfc_allows_is_refused_by_name(timer: str, least: int, source: str) -> None:
    path = Path("/etc/jetplane/jetplane.toml")
    assert getattr(config.parse(_with(f"nat.{timer}", least), path).nat, timer) == least
    with pytest.raises(ConfigurationError) as caught:
        config.parse(_with(f"nat.{timer}", least - 1), path)
    assert f"nat.{timer} = {least - 1}: expected `int` >= {least}" in str(caught.value)
    assert source in caught.value.hint


def test_the_dns_service_is_at_every_address_of_the_tunnels_unless_some_are_named() -> None:
    second = {"name": "jet1", "listen_port": 51821, "private_key_file": "k", "addresses": ["10.65.0.1/16"], "shards": 2}
    tree = _with("tunnel", [*GOOD["tunnel"], second])
    everywhere = config.parse({**tree, "dns": {"service": True, "steer": True}}, Path("x"))
    assert everywhere.dns.addresses == ("10.64.0.1", "fd64::1", "10.65.0.1", "10.65.128.1")
    first, *shards = everywhere.tunnel
    assert config.resolvers_of(first, everywhere) == ("10.64.0.1", "fd64::1")
    assert [config.resolvers_of(shard, everywhere) for shard in shards] == [("10.65.0.1",), ("10.65.128.1",)]
    named = config.parse({**tree, "dns": {"service": True, "addresses": ["fd64:0::1", "10.65.128.1"]}}, Path("x"))
    assert named.dns.addresses == ("fd64::1", "10.65.128.1")
    assert [config.resolvers_of(tunnel, named) for tunnel in named.tunnel] == [
        ("fd64::1",),
        ("fd64::1", "10.65.128.1"),
        ("10.65.128.1",),
    ]
    assert config.resolvers_of(first, config.parse(tree, Path("x"))) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": {"deny_ports": ["udp/53"]}}, 'policy.deny_ports = "udp/53": expected ports without 53'),
        (
            {"policy": {"deny_ports": ["tcp/25", "tcp/1-1023"]}},
            'policy.deny_ports = "tcp/1-1023": expected ports without',
        ),
        ({"tunnel": [{**GOOD["tunnel"][0], "listen_port": 53}]}, "tunnel jet0 listens at port 53"),
        ({"tunnel": [{**GOOD["tunnel"][0], "listen_port": 52, "shards": 2}]}, "tunnel jet1 listens at port 53"),
    ],
)
def test_what_else_is_at_port_53_stands_in_the_way_of_the_service(changes: dict[str, Any], message: str) -> None:
    path = Path("/etc/jetplane/jetplane.toml")
    config.parse({**GOOD, **changes}, path)
    with pytest.raises(ConfigurationError) as caught:
        config.parse({**GOOD, **changes, "dns": {"service": True}}, path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
