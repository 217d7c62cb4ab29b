"""The netlink messages: what goes out is read back by two decoders that do not know the encoder."""

from __future__ import annotations

import contextlib
import ipaddress
from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink.generic.wireguard import wgmsg

from jetplane.model import V4_MAPPED, InnerAddress, Peer, PresharedKey, PublicKey
from jetplane.plan import DiscardEndpoint, MoveAddresses, PeerStep, RemovePeer, SetPeer
from jetplane.wireguard.attributes import (
    HEADER,
    HEADROOM,
    NESTED,
    PEER_PUBLIC_KEY,
    PEER_REMOVE,
    PEER_REPLACE_ALLOWED_IPS,
    PEER_UPDATE_ONLY,
    attribute,
    walk,
)
from jetplane.wireguard.decode import decode
from jetplane.wireguard.encode import REMOVALS_PER_MESSAGE, encode_device, encode_removal_of_all, encode_steps
from jetplane.wireguard.snapshot import WIDER

KEYS = st.binary(min_size=32, max_size=32)
ADDRESSES = st.one_of(
    st.binary(min_size=4, max_size=4).map(lambda b: InnerAddress(V4_MAPPED + b)),
    st.binary(min_size=16, max_size=16).filter(lambda b: not b.startswith(V4_MAPPED)).map(InnerAddress),
)
PEERS = st.builds(
    Peer,
    KEYS.map(PublicKey),
    st.lists(ADDRESSES, max_size=40, unique=True).map(tuple),
    st.none() | KEYS.filter(any).map(PresharedKey),
    st.integers(0, 65535),
)
STEPS = st.lists(
    st.one_of(
        PEERS.map(SetPeer),
        KEYS.map(PublicKey).map(RemovePeer),
        KEYS.map(PublicKey).map(DiscardEndpoint),
        PEERS.map(lambda peer: MoveAddresses(peer.public_key, peer.allowed_ips)),
    ),
    max_size=30,
)
LIMITS = st.integers(256, 65535)


def parse(message: bytearray) -> Any:
    """The message as pyroute2 reads it."""
    data = bytearray(message)
    data[0:4] = len(data).to_bytes(4, "little")
    parsed = wgmsg(bytes(data))
    parsed.decode()
    return parsed


def parts(messages: Iterable[bytearray]) -> list[tuple[bytes, dict[str, Any]]]:
    """(public key, attributes) of each peer, or part of one, as pyroute2 reads them."""
    found = []
    for message in messages:
        for entry in parse(message).get_attr("WGDEVICE_A_PEERS") or ():
            values = dict(entry["attrs"])
            found.append((b64decode(values["WGPEER_A_PUBLIC_KEY"]), values))
    return found


def allowed_ips(values: dict[str, Any]) -> list[str]:
    return [entry["addr"] for entry in values.get("WGPEER_A_ALLOWEDIPS", ())]


def whole(key: PublicKey, values: dict[str, Any], rest: list[tuple[bytes, dict[str, Any]]], count: int) -> list[str]:
    """All allowed IPs of a peer, with those in the parts that follow."""
    seen = allowed_ips(values)
    while len(seen) < count:
        again, values = rest.pop(0)
        assert (again, values["WGPEER_A_FLAGS"]) == (key, PEER_UPDATE_ONLY)
        assert allowed_ips(values), "a part without allowed IPs is a part too many"
        seen += allowed_ips(values)
    return seen


def texts(addresses: Sequence[InnerAddress]) -> list[str]:
    return [f"{ipaddress.ip_address(address.packed)}/{address.prefix_length}" for address in addresses]


@settings(deadline=None, max_examples=40)
@given(STEPS, LIMITS)
def test_another_decoder_reads_the_steps_back_in_their_order(steps: Sequence[PeerStep], limit: int) -> None:
    rest = parts(encode_steps("jet0", steps, limit=limit))
    for step in steps:
        key, values = rest.pop(0)
        match step:
            case RemovePeer(public_key):
                assert (key, values["WGPEER_A_FLAGS"]) == (public_key, PEER_REMOVE)
            case SetPeer(peer):
                assert (key, values["WGPEER_A_FLAGS"]) == (peer.public_key, PEER_REPLACE_ALLOWED_IPS)
                assert values["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL"] == peer.persistent_keepalive
                assert b64decode(values.get("WGPEER_A_PRESHARED_KEY", b"")) == (peer.preshared_key or b"")
                assert whole(peer.public_key, values, rest, len(peer.allowed_ips)) == texts(peer.allowed_ips)
            case MoveAddresses(public_key, addresses):
                assert (key, values["WGPEER_A_FLAGS"]) == (public_key, PEER_UPDATE_ONLY)
                assert whole(public_key, values, rest, len(addresses)) == texts(addresses)
            case DiscardEndpoint(public_key):
                assert (key, values["WGPEER_A_FLAGS"]) == (public_key, PEER_UPDATE_ONLY)
                endpoint = values["WGPEER_A_ENDPOINT"]
                assert (endpoint["addr"], endpoint["port"]) == ("::1", 9)
    assert not rest


@settings(deadline=None, max_examples=40)
@given(STEPS, LIMITS)
def test_no_message_is_longer_than_the_limit_and_none_is_empty(steps: Sequence[PeerStep], limit: int) -> None:
    for message in encode_steps("jet0", steps, limit=limit):
        assert len(message) <= limit
        assert parse(message).get_attr("WGDEVICE_A_IFNAME") == "jet0"
        assert parts([message])


def test_no_limit_is_overstepped_by_a_single_byte() -> None:
    """Every remainder of room: what fits goes in, what does not waits for the next message."""
    addresses = tuple(InnerAddress.parse(text) for n in range(30) for text in (f"10.0.0.{n}", f"fd00::{n}"))
    peer = Peer(PublicKey(bytes(32)), addresses, PresharedKey(bytes(32)))
    bare = replace(peer, allowed_ips=())
    steps: list[PeerStep] = [SetPeer(peer), *[RemovePeer(peer.public_key)] * 30, SetPeer(bare), SetPeer(peer)]
    for limit in range(256, 1024):
        assert max(map(len, encode_steps("jet0", steps, limit=limit))) <= limit


@settings(deadline=None, max_examples=40)
@given(st.lists(PEERS, max_size=20, unique_by=lambda p: p.public_key), LIMITS)
def test_the_dump_decoder_joins_what_was_split(peers: Sequence[Peer], limit: int) -> None:
    messages = encode_steps("jet0", [SetPeer(peer) for peer in peers], limit=limit)
    snapshot = decode(memoryview(message)[HEADROOM:] for message in messages)
    assert {
        key: (view.addresses, view.persistent_keepalive, view.has_preshared_key) for key, view in snapshot.peers.items()
    } == {
        peer.public_key: (list(peer.allowed_ips), peer.persistent_keepalive, peer.preshared_key is not None)
        for peer in peers
    }


def test_messages_are_filled_before_the_next_one_is_begun() -> None:
    peer = Peer(PublicKey(bytes(32)), (InnerAddress.parse("10.0.0.1"),))
    *full, last = encode_steps("jet0", [SetPeer(replace(peer))] * 1000)
    size = len(last) // len(parts([last]))
    assert full
    assert all(16 * 1024 - len(message) < size + HEADER.size for message in full)


def test_removals_come_in_bounded_batches() -> None:
    """Each costs an RCU grace period with the device's lock held."""
    steps = [RemovePeer(PublicKey(n.to_bytes(32))) for n in range(3 * REMOVALS_PER_MESSAGE + 1)]
    counts = [len(parts([message])) for message in encode_steps("jet0", steps)]
    assert counts == [REMOVALS_PER_MESSAGE] * 3 + [1]


def test_no_steps_are_no_message() -> None:
    assert list(encode_steps("jet0", [])) == []


def test_a_device_message_carries_every_setting() -> None:
    key = bytearray(range(32))
    parsed = parse(encode_device("jet0", key, 51820, 0x1234))
    assert parsed.get_attr("WGDEVICE_A_IFNAME") == "jet0"
    assert b64decode(parsed.get_attr("WGDEVICE_A_PRIVATE_KEY")) == key
    assert parsed.get_attr("WGDEVICE_A_LISTEN_PORT") == 51820
    assert parsed.get_attr("WGDEVICE_A_FWMARK") == 0x1234
    assert parsed.get_attr("WGDEVICE_A_PEERS") is None


def test_removing_all_replaces_the_peers_with_none() -> None:
    parsed = parse(encode_removal_of_all("jet0"))
    assert parsed.get_attr("WGDEVICE_A_FLAGS") == 1
    assert parsed.get_attr("WGDEVICE_A_PEERS") is None


def peer_dump(*attributes: bytes) -> memoryview:
    peer = attribute(NESTED, b"".join(attributes))
    return memoryview(attribute(8 | NESTED, peer))


def allowed_ip(family: int, address: bytes, mask: int) -> bytes:
    inner = attribute(1, family.to_bytes(2, "little")) + attribute(2, address) + attribute(3, bytes([mask]))
    return attribute(NESTED, inner)


KEY = attribute(PEER_PUBLIC_KEY, bytes(32))


@pytest.mark.parametrize(
    ("family", "address", "mask"), [(2, bytes(4), 24), (2, bytes(4), 0), (10, bytes(16), 64), (10, bytes(16), 32)]
)
def test_an_allowed_ip_wider_than_one_address_is_shown_as_such(family: int, address: bytes, mask: int) -> None:
    snapshot = decode([peer_dump(KEY, attribute(9 | NESTED, allowed_ip(family, address, mask)))])
    assert snapshot.peers[bytes(32)].addresses == [WIDER]


def test_a_preshared_key_of_zeros_is_none() -> None:
    snapshot = decode([peer_dump(KEY, attribute(2, bytes(32)))])
    assert not snapshot.peers[bytes(32)].has_preshared_key


def test_a_continued_peer_keeps_its_keepalive() -> None:
    """Only the first part has one (linux/wireguard.h)."""
    first = peer_dump(KEY, attribute(5, (25).to_bytes(2, "little")))
    second = peer_dump(KEY, attribute(9 | NESTED, allowed_ip(2, b"\x0a\0\0\1", 32)))
    view = decode([first, second]).peers[bytes(32)]
    assert (view.persistent_keepalive, view.addresses) == (25, [V4_MAPPED + b"\x0a\0\0\1"])


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(3, 8),
        HEADER.pack(200, 8) + bytes(8),
        attribute(6, b"\1"),
        attribute(8 | NESTED, HEADER.pack(100, 0)),
    ],
)
def test_lengths_that_contradict_the_data_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="netlink attribute"):
        decode([memoryview(data)])


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_the_walk_leave_its_data(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert sum(len(value) for _, value in walk(memoryview(data))) <= len(data)
