"""The userspace protocol as text, and the compact form in which a dump reaches the controller."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetplane.model import V4_MAPPED, InnerAddress, Peer, PresharedKey, PublicKey
from jetplane.plan import PeerStep, RemovePeer, SetPeer
from jetplane.wireguard import uapi
from jetplane.wireguard.snapshot import WIDER, PeerView, Snapshot, pack, pack_failure, unpack, whole_address
from jetplane.wireguard.uapi_request import encode_device, encode_steps

KEYS = st.binary(min_size=32, max_size=32)
ADDRESSES = st.one_of(
    st.binary(min_size=4, max_size=4).map(lambda b: V4_MAPPED + b), st.binary(min_size=16, max_size=16)
)
PEERS = st.builds(
    Peer,
    KEYS.map(PublicKey),
    st.lists(ADDRESSES.map(InnerAddress), max_size=5).map(tuple),
    st.none() | KEYS.map(PresharedKey),
    st.integers(0, 65535),
)
STEPS = st.lists(st.one_of(PEERS.map(SetPeer), KEYS.map(PublicKey).map(RemovePeer)), max_size=20)
SNAPSHOTS = st.builds(
    Snapshot,
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    st.dictionaries(KEYS, st.builds(PeerView, st.integers(0, 65535), st.booleans(), st.lists(ADDRESSES, max_size=5))),
)

LINE_OF_HEX = "ab" * 32
ANSWER = f"""private_key={LINE_OF_HEX}
listen_port=51820
fwmark=51
public_key={"01" * 32}
preshared_key={"00" * 32}
protocol_version=1
endpoint=[2001:db8::1]:40000
last_handshake_time_sec=1700000000
last_handshake_time_nsec=5
tx_bytes=10
rx_bytes=20
persistent_keepalive_interval=25
allowed_ip=10.0.0.2/32
allowed_ip=fd00::2/128
allowed_ip=10.1.0.0/16
public_key={"02" * 32}
preshared_key={LINE_OF_HEX}
persistent_keepalive_interval=0
errno=0

"""


def lines(text: bytes) -> list[tuple[str, str]]:
    return [(line.split("=")[0], line.partition("=")[2]) for line in text.decode().splitlines() if line]


def expected(step: PeerStep) -> list[tuple[str, str]]:
    match step:
        case RemovePeer(public_key):
            return [("public_key", public_key.hex()), ("remove", "true")]
        case SetPeer(peer):
            secret = [] if peer.preshared_key is None else [("preshared_key", peer.preshared_key.hex())]
            addresses = [f"{ipaddress.ip_address(a.packed)}/{a.prefix_length}" for a in peer.allowed_ips]
            return [
                ("public_key", peer.public_key.hex()),
                *secret,
                ("persistent_keepalive_interval", str(peer.persistent_keepalive)),
                ("replace_allowed_ips", "true"),
                *(("allowed_ip", address) for address in addresses),
            ]


@settings(deadline=None, max_examples=50)
@given(STEPS, st.integers(1, 7))
def test_requests_hold_the_steps_in_their_order(steps: Sequence[PeerStep], per_request: int) -> None:
    seen: list[tuple[str, str]] = []
    for request in encode_steps(steps, per_request=per_request):
        assert request.startswith(b"set=1\n")
        assert request.endswith(b"\n\n")
        assert request.count(b"\n\n") == 1, "an empty line ends a request"
        assert 1 <= request.count(b"public_key=") <= per_request
        seen += lines(request)[1:]
    assert seen == [line for step in steps for line in expected(step)]


@pytest.mark.parametrize("port", [None, 51820])
def test_a_device_request_carries_the_settings_and_leaves_an_unchanged_port_alone(port: int | None) -> None:
    settings_lines = [("set", "1"), ("private_key", bytes(range(32)).hex())]
    settings_lines += [("listen_port", str(port))] if port else []
    request = encode_device(bytearray(range(32)), port, 51)
    assert lines(bytes(request)) == [*settings_lines, ("fwmark", "51")]
    assert request.endswith(b"\n\n")


def test_an_answer_is_read_for_what_may_be_kept() -> None:
    code, snapshot = uapi.decode(ANSWER.encode().splitlines(keepends=True))
    assert code == 0
    assert (snapshot.listen_port, snapshot.fwmark) == (51820, 51)
    first = PeerView(25, False, [V4_MAPPED + b"\x0a\0\0\2", bytes.fromhex("fd" + "00" * 14 + "02"), WIDER])
    assert snapshot.peers == {b"\1" * 32: first, b"\2" * 32: PeerView(0, True, [])}


@pytest.mark.parametrize(("text", "code"), [(b"errno=0\n", 0), (b"errno=-98\n", 98), (b"errno=22\n", 22)])
def test_an_errno_is_positive_whatever_sign_it_came_with(text: bytes, code: int) -> None:
    assert uapi.decode([text])[0] == code


@pytest.mark.parametrize(
    "text", [b"", b"listen_port=1\n", b"public_key=zz\nerrno=0\n", b"allowed_ip=1.2.3.4/x\nerrno=0\n"]
)
def test_half_an_answer_is_refused(text: bytes) -> None:
    with pytest.raises((ValueError, OSError)):
        uapi.decode(text.splitlines(keepends=True))


@settings(deadline=None)
@given(SNAPSHOTS)
def test_a_snapshot_survives_its_compact_form(snapshot: Snapshot) -> None:
    assert unpack(pack(snapshot)) == snapshot


@settings(deadline=None)
@given(SNAPSHOTS, st.data())
def test_a_snapshot_cut_short_is_refused_or_ends_with_a_whole_peer(snapshot: Snapshot, data: st.DataObject) -> None:
    whole = pack(snapshot)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        seen = unpack(cut)
    except ValueError:
        return
    assert len(seen.peers) < len(snapshot.peers)
    assert all(snapshot.peers[key] == peer for key, peer in seen.peers.items())


def test_a_refused_dump_raises_its_errno() -> None:
    with pytest.raises(OSError) as error:
        unpack(pack_failure(19))
    assert error.value.errno == 19


@pytest.mark.parametrize(
    ("packed", "length", "seen"),
    [
        (b"\x0a\0\0\1", 32, V4_MAPPED + b"\x0a\0\0\1"),
        (b"\x0a\0\0\1", 31, WIDER),
        (b"\xfd" + bytes(15), 128, b"\xfd" + bytes(15)),
        (b"\xfd" + bytes(15), 32, WIDER),
    ],
)
def test_only_single_addresses_are_told_apart(packed: bytes, length: int, seen: bytes) -> None:
    assert whole_address(packed, length) == seen


def test_nothing_that_holds_peers_says_so_when_printed() -> None:
    snapshot = Snapshot(1, 2, {b"\x55" * 32: PeerView(25, True, [b"\x66" * 16])})
    for text in (repr(snapshot), repr(snapshot.peers[b"\x55" * 32])):
        assert "hidden" in text
        assert "U" not in text.replace("PeerView", "") and "f" not in text
