"""What a node's network must look like, from its configuration and a few facts: no machine."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from jetplane import abi
from jetplane.config import Config, parse
from jetplane.journal import Address, Feature, Link, Proxy, Route, Rule, Sysctl
from jetplane.network.messages import MAIN_TABLE
from jetplane.network.wanted import PROXY_TABLE, Facts, Item, Value, exits, wanted

UPLINK = (("eth0", ip_interface("198.51.100.2/24")), ("eth0", ip_interface("2001:db8:1::2/64")))
MARK = abi.constants()["HANDOVER_MARK"]


def configure(ipv4: tuple[str, ...] = ("203.0.113.7",), ipv6: tuple[str, ...] = (), **changes: Any) -> Config:
    tree = {
        "uplink": {"interface": "eth0"},
        "exit": {"ipv4": list(ipv4), "ipv6": list(ipv6)},
        "tunnel": [
            {
                "name": f"jet{n}",
                "listen_port": n + 1,
                "private_key_file": "k",
                "addresses": [f"10.6{n}.0.1/16", f"fd6{n}::1/64"],
            }
            for n in range(2)
        ],
        "peers": {"path": "peers"},
        **changes,
    }
    return parse(tree, Path("/etc/jetplane.toml"))


def items(config: Config | None = None, **facts: Any) -> tuple[Item, ...]:
    return wanted(config or configure(), Facts(**{"addresses": UPLINK, **facts}))


def test_exit_addresses_are_told_apart_by_how_packets_find_the_node() -> None:
    config = configure(
        ("203.0.113.7", "198.51.100.2", "198.51.100.9", "192.0.2.1"), ("2001:DB8:1:0::9", "2001:db8:2::9")
    )
    found = exits(config, (*UPLINK, ("lo", ip_interface("192.0.2.1/32")), ("eth1", ip_interface("203.0.113.1/24"))))
    assert found.own == (ip_address("198.51.100.2"), ip_address("192.0.2.1"))
    assert found.on_link == (ip_address("198.51.100.9"), ip_address("2001:db8:1::9"))
    assert found.routed == (ip_address("203.0.113.7"), ip_address("2001:db8:2::9")), "eth1 is not the uplink"


@pytest.mark.parametrize("family", [4, 6])
def test_the_mark_is_looked_up_before_anything_is_discarded_and_the_node_before_its_peers(family: int) -> None:
    rules = [item for item in items() if isinstance(item, Rule) and item.family == family]
    order = sorted(rules, key=lambda rule: rule.priority)
    assert order[0] == Rule(family, 59, mark=abi.constants()["PROHIBIT_MARK"], prohibited=True)
    assert order[1] == Rule(family, 61, table=MAIN_TABLE, mark=MARK)
    assert all(rule.table == 0 for rule in order if rule.interface in ("jet0", "jet1", "eth0"))
    assert {rule.interface for rule in order} == {"", "jet0", "jet1", "eth0", "lo"}
    for network in ("10.60.0.0/16", "10.61.0.0/16") if family == 4 else ("fd60::/64", "fd61::/64"):
        own, others = [rule for rule in order if rule.destination == network]
        assert own.interface == "lo" and own.table == MAIN_TABLE
        assert others.interface == "" and others.table == 0


def test_every_rule_that_discards_stands_before_a_tunnel_is_up_and_anything_is_forwarded() -> None:
    every = items()
    last_rule = max(n for n, item in enumerate(every) if isinstance(item, Rule))
    opening = [
        n
        for n, item in enumerate(every)
        if isinstance(item, Value) and (item.value == "up" or str(item.setting).endswith("forwarding"))
    ]
    assert opening and last_rule < min(opening)


def test_a_foreign_exit_address_leads_nowhere_and_an_own_one_is_left_to_the_stack() -> None:
    config = configure(("203.0.113.7", "198.51.100.2"), ("2001:db8:2::9",))
    nowhere = {item for item in items(config) if isinstance(item, Route)}
    assert nowhere == {Route("203.0.113.7/32", MAIN_TABLE), Route("2001:db8:2::9/128", MAIN_TABLE)}


def test_the_nodes_own_ports_move_only_for_an_own_exit_address() -> None:
    moved = Value(Sysctl("net/ipv4/ip_local_port_range"), "61440 65535")
    assert moved not in items()
    assert moved in items(configure(("198.51.100.2",)))
    assert moved in items(configure((), ("2001:db8:1::2",)))


def test_an_on_link_exit_address_is_answered_for() -> None:
    every = items(configure(("198.51.100.9",), ("2001:db8:1::9",)))
    for address, bits in (("198.51.100.9", 32), ("2001:db8:1::9", 128)):
        assert Proxy("eth0", address) in every
        assert Route(f"{address}/{bits}", MAIN_TABLE) in every, "but packets to it still go nowhere"
        assert Route(f"{address}/{bits}", PROXY_TABLE, "jet0") in every
    assert Rule(4, 60, table=PROXY_TABLE, mark=MARK) in every
    assert Rule(6, 60, table=PROXY_TABLE, mark=MARK) in every
    assert Value(Sysctl("net/ipv6/conf/all/proxy_ndp"), "1") in every


def test_a_routed_exit_address_is_not_answered_for() -> None:
    assert not [item for item in items() if isinstance(item, Proxy) or "prox" in str(item)]


def test_a_tunnel_gets_its_mtu_and_addresses_before_it_comes_up() -> None:
    jet0 = [
        item
        for item in items()
        if (isinstance(item, Address) and item.interface == "jet0")
        or (isinstance(item, Value) and isinstance(item.setting, Link) and item.setting.interface == "jet0")
    ]
    assert jet0 == [
        Value(Link("jet0", "mtu"), "1420"),
        Address("jet0", "10.60.0.1/16"),
        Address("jet0", "fd60::1/64"),
        Value(Link("jet0", "state"), "up"),
    ]


@pytest.mark.parametrize(("now", "expected"), [("0", None), ("1", "2"), ("2", "2"), (None, None)])
def test_an_uplink_that_listens_to_router_advertisements_goes_on_listening(
    now: str | None, expected: str | None
) -> None:
    name = Sysctl("net/ipv6/conf/eth0/accept_ra")
    found = [item.value for item in items(uplink_accept_ra=now) if isinstance(item, Value) and item.setting == name]
    assert found == ([expected] if expected else [])
    if expected:
        order = [str(item.setting) for item in items(uplink_accept_ra=now) if isinstance(item, Value)]
        assert order.index(str(name)) < order.index("sysctl net/ipv6/conf/all/forwarding")


def test_only_offloads_that_the_device_lets_change_are_asked_for() -> None:
    assert not [item for item in items() if isinstance(item, Value) and isinstance(item.setting, Feature)]
    changeable = frozenset(
        {Feature("eth0", "rx-gro-hw"), Feature("jet1", "rx-udp-gro-forwarding"), Feature("jet0", "rx-lro")}
    )
    found = [
        item for item in items(changeable=changeable) if isinstance(item, Value) and isinstance(item.setting, Feature)
    ]
    assert found == [
        Value(Feature("jet1", "rx-udp-gro-forwarding"), "on"),
        Value(Feature("eth0", "rx-gro-hw"), "off"),
    ]


def test_ipv4_is_forwarded_from_the_nodes_interfaces_only() -> None:
    values = {str(item.setting): item.value for item in items() if isinstance(item, Value)}
    forwarding = {name for name, value in values.items() if name.startswith("sysctl net/ipv4") and "forward" in name}
    assert forwarding == {f"sysctl net/ipv4/conf/{name}/forwarding" for name in ("eth0", "jet0", "jet1")}


def test_the_kernel_log_is_told_to_name_no_address() -> None:
    for name in ("all", "eth0", "jet0", "jet1"):
        assert Value(Sysctl(f"net/ipv4/conf/{name}/log_martians"), "0") in items()


def test_a_kernel_without_ipv6_gets_an_ipv4_node() -> None:
    found = items(ipv6=False)
    assert found and not [
        item for item in found if "ipv6" in str(item) or "fd6" in str(item) or "family=6" in repr(item)
    ]


def test_nothing_is_asked_for_twice() -> None:
    every = items(configure(("198.51.100.9", "198.51.100.2", "203.0.113.7"), ("2001:db8:1::9",)))
    targets = [item.setting if isinstance(item, Value) else item for item in every]
    assert len(targets) == len(set(targets))
