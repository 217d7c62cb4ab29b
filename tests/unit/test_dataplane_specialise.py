"""The header made from the configuration, and the names of layouts and builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jetplane.config import Config, parse
from jetplane.dataplane.specialise import Facts, build_hash, layout_hash, node_header, policy, sizes

FACTS = Facts(pin_root="/run/jetplane/bpf/maps-0", uplink_ifindex=7, byteorder="little")


def config(**changes: Any) -> Config:
    tree = {
        "uplink": {"interface": "up0"},
        "exit": {"ipv4": ["203.0.113.10"], "ipv6": ["2001:db8::10"]},
        "tunnel": [tunnel()],
        "peers": {"path": "/peers", "max": 100},
    }
    return parse({**tree, **changes}, Path("/etc/jetplane.toml"))


def tunnel(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "name": f"jet{number}",
        "listen_port": 51820 + number,
        "private_key_file": "/key",
        "addresses": [f"10.{64 + number}.0.1/16", f"fd0{number}::1/64"],
        **changes,
    }


def macros(header: str) -> dict[str, str]:
    lines = (line.split(" ", 2) for line in header.splitlines() if line.startswith("#define"))
    return {line[1]: line[2] if len(line) > 2 else "" for line in lines}


LINES: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("the maps' directory", {}, "PIN_ROOT", '"/run/jetplane/bpf/maps-0"'),
    ("the uplink", {}, "UPLINK_IFINDEX", "7"),
    ("a tunnel without Ethernet", {}, "TUNNEL_ETHERNET", "0"),
    ("a tunnel with Ethernet", {"transport": "veth"}, "TUNNEL_ETHERNET", "1"),
    ("the smallest tunnel", {"tunnel": [tunnel(), tunnel(1, mtu=1380)]}, "TUNNEL_MTU", "1380"),
    ("a tunnel by itself", {}, "KEY_ROTATION", "0"),
    ("a tunnel that follows", {"tunnel": [tunnel(), tunnel(1, addresses=[], follows="jet0")]}, "KEY_ROTATION", "1"),
    ("every WireGuard port", {"tunnel": [tunnel(), tunnel(1)]}, "WIREGUARD_PORTS(X)", "X(51820) X(51821)"),
    ("an IPv4 exit as loaded", {}, "EXIT_V4(X)", "X(0, 0x0a7100cbu)"),
    (
        "an IPv6 exit counted after IPv4",
        {},
        "EXIT_V6(X)",
        "X(1, 0xb80d0120u, 0x00000000u, 0x00000000u, 0x10000000u)",
    ),
    ("no IPv4 exit", {"exit": {"ipv6": ["2001:db8::10"]}}, "EXIT_V4(X)", ""),
    ("no IPv6 exit", {"exit": {"ipv4": ["203.0.113.10"]}}, "EXIT_V6(X)", ""),
    ("the tunnels' networks and masks", {}, "INNER_V4(X)", "X(0x0000400au, 0x0000ffffu)"),
    (
        "the tunnels' IPv6 networks and masks",
        {},
        "INNER_V6(X)",
        "X(0x000000fdu, 0x00000000u, 0x00000000u, 0x00000000u, 0xffffffffu, 0xffffffffu, 0x00000000u, 0x00000000u)",
    ),
    ("the node's address in the tunnel", {}, "TUNNEL_V4(X)", "X(0x0100400au)"),
    (
        "the node's IPv6 address in the tunnel",
        {},
        "TUNNEL_V6(X)",
        "X(0x000000fdu, 0x00000000u, 0x00000000u, 0x01000000u)",
    ),
    ("four addresses a peer", {}, "MAX_ADDRESSES", "400"),
    ("how many exits", {}, "EXITS", "2"),
    ("the default filter", {}, "NAT_FILTERING", "FILTER_ADDRESS"),
    (
        "an open filter",
        {"nat": {"filtering": "endpoint-independent"}},
        "NAT_FILTERING",
        "FILTER_ENDPOINT_INDEPENDENT",
    ),
    ("refreshing", {"nat": {"inbound_refresh": True}}, "INBOUND_REFRESH", "1"),
    ("seconds", {"nat": {"udp_timeout": 121}}, "UDP_TIMEOUT_S", "121"),
    ("denied ports", {}, "DENIED_PORTS(X)", "X(PROTOCOL_TCP, 25, 25)"),
    (
        "other denied ports",
        {"policy": {"deny_ports": ["udp/6881-6999", "tcp/465"]}},
        "DENIED_PORTS(X)",
        "X(PROTOCOL_UDP, 6881, 6999) X(PROTOCOL_TCP, 465, 465)",
    ),
    ("an answer", {}, "POLICY_ANSWERS", "1"),
    ("no answer", {"policy": {"answer": "silence"}}, "POLICY_ANSWERS", "0"),
    ("an exception", {"policy": {"allow": ["10.1.0.0/16"]}}, "ALLOWED_V4(X)", "X(0x0000010au, 0x0000ffffu)"),
    ("nothing denied", {"policy": {"deny_private": False}}, "DENIED_V4(X)", ""),
    (
        "what is within another prefix",
        {"policy": {"deny_private": False, "deny": ["10.0.0.0/8", "10.1.0.0/16"]}},
        "DENIED_V4(X)",
        "X(0x0000000au, 0x000000ffu)",
    ),
    ("a rate", {"guard": {"icmp_echo_per_second": 3}}, "ICMP_ECHO_PER_SECOND", "3"),
)


def test_the_node_s_own_networks_are_denied_and_its_addresses_whatever_is_allowed() -> None:
    """Also where a network's broadcasts go, and what all of its routers answer to: the node is one."""
    own = ("192.0.2.5/24", "198.51.100.7/32", "2001:db8:7::5/64", "2001:db8:8::9/128")
    denied, allowed, places = policy(config(policy={"deny_private": False, "allow": ["192.0.2.0/24"]}), own)
    assert [str(n) for n in denied] == ["192.0.2.0/24", "198.51.100.7/32", "2001:db8:7::/64", "2001:db8:8::9/128"]
    assert [str(n) for n in allowed] == ["192.0.2.0/24"]
    assert [str(place) for place in places] == [
        *("192.0.2.0", "192.0.2.5", "192.0.2.255", "198.51.100.7"),
        *("2001:db8:7::", "2001:db8:7::5", "2001:db8:8::9"),
    ]


def test_neighbours_can_be_left_out_and_the_node_cannot() -> None:
    denied, _, _ = policy(config(policy={"deny_private": False, "deny_own_networks": False}), ("192.0.2.5/24",))
    assert [str(n) for n in denied] == ["192.0.2.0/32", "192.0.2.5/32", "192.0.2.255/32"]


@pytest.mark.parametrize(("changes", "name", "value"), [line[1:] for line in LINES], ids=[line[0] for line in LINES])
def test_the_header_says(changes: dict[str, Any], name: str, value: str) -> None:
    assert macros(node_header(config(**changes), FACTS))[name] == value


def test_words_are_as_a_big_endian_machine_loads_them() -> None:
    facts = Facts(pin_root="/p", uplink_ifindex=1, byteorder="big")
    assert macros(node_header(config(), facts))["EXIT_V4(X)"] == "X(0, 0xcb00710au)"


def test_a_timer_leaves_the_layout_alone() -> None:
    assert layout(config()) == layout(config(nat={"udp_timeout": 200}))


CHANGES: tuple[dict[str, Any], ...] = (
    {"peers": {"path": "/peers", "max": 101}},
    {"nat": {"max_bindings": 2048}},
    {"nat": {"max_remotes": 2048}},
    {"exit": {"ipv4": ["203.0.113.11"], "ipv6": ["2001:db8::10"]}},
    {"exit": {"ipv4": ["203.0.113.10"]}},
)


@pytest.mark.parametrize("changes", CHANGES)
def test_a_size_or_an_exit_address_makes_another_layout(changes: dict[str, Any]) -> None:
    assert layout(config()) != layout(config(**changes))


def test_the_order_of_exit_addresses_makes_another_layout() -> None:
    one, other = ["203.0.113.10", "203.0.113.11"], ["203.0.113.11", "203.0.113.10"]
    assert layout(config(exit={"ipv4": one})) != layout(config(exit={"ipv4": other}))


def test_a_change_of_a_struct_or_a_map_makes_another_layout() -> None:
    assert len({layout(config()), layout(config(), abi_h="struct"), layout(config(), maps_def="MAP")}) == 3


def layout(of: Config, abi_h: str = "a", maps_def: str = "m") -> str:
    return layout_hash(of, abi_h=abi_h, maps_def=maps_def)


def test_header_source_name_and_compiler_each_make_another_build() -> None:
    builds = {
        build_hash("h", [("a.c", "int a;")], "0.26.0"),
        build_hash("g", [("a.c", "int a;")], "0.26.0"),
        build_hash("h", [("b.c", "int a;")], "0.26.0"),
        build_hash("h", [("a.c", "int b;")], "0.26.0"),
        build_hash("h", [("a.c", "int a;")], "0.27.0"),
        build_hash("h", [("a.ci", "nt a;")], "0.26.0"),
    }
    assert len(builds) == 6


def test_the_order_in_which_sources_are_read_does_not_matter() -> None:
    sources = [("a.c", "a"), ("b.c", "b")]
    assert build_hash("h", sources, "1") == build_hash("h", sources[::-1], "1")


def test_sizes_are_in_the_header() -> None:
    defined = macros(node_header(config(), FACTS))
    assert {name: int(defined[name]) for name in sizes(config())} == sizes(config())
