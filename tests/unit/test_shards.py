"""A tunnel spread over several interfaces: names, ports and parts of prefixes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import netaddr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetplane import shards
from jetplane.config import Config, parse
from jetplane.errors import ConfigurationError, PeerError
from jetplane.model import InnerAddress
from jetplane.sources.tunnels import Tunnels


def configured(*tunnels: dict[str, Any], uplink: str = "up0") -> Config:
    base = {"listen_port": 51820, "private_key_file": "/key", "addresses": ["10.64.0.1/16", "fd64::1/64"]}
    tree = {
        "uplink": {"interface": uplink},
        "exit": {"ipv4": ["203.0.113.10"]},
        "tunnel": [{**base, **tunnel} for tunnel in tunnels],
    }
    return parse(tree, Path("/etc/jetplane.toml"))


def test_a_tunnel_of_four_shards_is_four_tunnels() -> None:
    config = configured({"name": "jet8", "shards": 4})
    assert [(t.name, t.listen_port, *t.addresses) for t in config.tunnel] == [
        ("jet8", 51820, "10.64.0.1/18", "fd64::1/66"),
        ("jet9", 51821, "10.64.64.1/18", "fd64::4000:0:0:1/66"),
        ("jet10", 51822, "10.64.128.1/18", "fd64::8000:0:0:1/66"),
        ("jet11", 51823, "10.64.192.1/18", "fd64::c000:0:0:1/66"),
    ]
    assert {(t.shards, t.private_key_file) for t in config.tunnel} == {(1, Path("/key"))}


def test_a_peer_belongs_to_the_shard_of_its_addresses() -> None:
    tunnels = Tunnels(configured({"name": "jet0", "shards": 4}))

    def shard(*addresses: str) -> str:
        return tunnels.of([InnerAddress.parse(text) for text in addresses])

    assert shard("10.64.0.2", "fd64::2") == "jet0"
    assert shard("10.64.200.7", "fd64::c000:0:0:7") == "jet3"
    with pytest.raises(PeerError, match="spread over tunnels jet0, jet3"):
        shard("10.64.200.7", "fd64::7")
    with pytest.raises(PeerError, match="node's own address on jet1"):
        shard("10.64.64.1")


def test_who_follows_a_sharded_tunnel_follows_shard_by_shard() -> None:
    after = {"name": "new0", "listen_port": 52820, "addresses": [], "follows": "jet0", "shards": 2}
    config = configured({"name": "jet0", "shards": 2}, after)
    assert [(t.name, t.listen_port, t.follows) for t in config.tunnel] == [
        ("jet0", 51820, ""), ("jet1", 51821, ""), ("new0", 52820, "jet0"), ("new1", 52821, "jet1"),
    ]  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"tunnel\[1\].shards = 1: expected as many as jet0 has"):
        configured({"name": "jet0", "shards": 2}, {**after, "shards": 1})


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"shards": 3}, r"tunnel\[0\].shards = 3"),
    ({"name": "jet", "shards": 2}, "expected a name that ends in a number"),
    ({"name": "jet00", "shards": 2}, "expected a name from which 2 can be counted"),
    ({"name": "abcdefghijklmn9", "shards": 2}, "none longer than 15"),
    ({"name": "up-1", "shards": 2, "listen_port": 65535}, "expected a port after which there are 1 more"),
    ({"addresses": ["10.64.64.1/16"], "shards": 4}, "expected an address in the first of 4 parts"),
    ({"addresses": ["10.64.0.1/29"], "shards": 4}, "expected a prefix with room for 4 parts"),
)


@pytest.mark.parametrize(("tunnel", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_cannot_be_spread_is_refused(tunnel: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        configured({"name": "jet0", **tunnel})


def test_shards_take_no_name_or_port_of_another() -> None:
    other = {"addresses": ["10.65.0.1/16"], "listen_port": 51900}
    for taken in ({"name": "jet1"}, {"name": "other", "listen_port": 51821}):
        with pytest.raises(ConfigurationError, match="stands for two") as error:
            configured({"name": "jet0", "shards": 2}, {**other, **taken})
        assert "leave room" in error.value.hint
    with pytest.raises(ConfigurationError, match="uplink"):
        configured({"name": "up0", "shards": 2}, uplink="up1")


@given(st.integers(0, 2**32 - 1), st.integers(8, 24), st.sampled_from((2, 4, 8, 16, 32, 64)))
def test_parts_are_all_of_the_prefix_and_none_twice(number: int, length: int, count: int) -> None:
    network = netaddr.IPNetwork(f"{netaddr.IPAddress(number)}/{length}").cidr
    parts = [netaddr.IPNetwork(text) for text in shards.parts(f"{network.network + 1}/{length}", count)]
    assert netaddr.cidr_merge([part.cidr for part in parts]) == [network]
    assert len(parts) == count
    assert {int(part.ip) - int(part.network) for part in parts} == {1}
