"""Keys and addresses: parsed at the edge, never shown by accident."""

from __future__ import annotations

import base64
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetplane.errors import PeerError
from jetplane.model import InnerAddress, ObservedPeer, Peer, PresharedKey, PublicKey
from jetplane.plan import Entry

KEY = base64.b64encode(b"canary-canary-canary-canary-cana").decode()


@pytest.mark.parametrize(
    ("text", "why"), [("", "0 bytes"), ("abc", "not base64"), (KEY[:-4], "30 bytes"), ("ä" * 44, "not base64")]
)
def test_a_malformed_key_is_refused_without_repeating_it(text: str, why: str) -> None:
    with pytest.raises(PeerError, match=why) as caught:
        PublicKey.parse(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.64.0.0/24", "wider than one address"),
        ("10.64.0", "not an IPv4"),
        ("", "not an IPv4"),
        ("host.example", "not an IPv4"),
    ],
)
def test_a_malformed_address_is_refused_without_repeating_it(text: str, why: str) -> None:
    with pytest.raises(PeerError, match=why) as caught:
        InnerAddress.parse(text)
    assert not text or text not in str(caught.value)


@given(st.ip_addresses())
def test_an_address_survives_the_way_to_the_map_and_back(address: object) -> None:
    parsed = InnerAddress.parse(str(address))
    assert len(parsed) == 16
    assert InnerAddress.parse(parsed.text()) == parsed


def test_nothing_that_is_printed_names_a_peer() -> None:
    key, secret, address = PublicKey.parse(KEY), PresharedKey.parse(KEY), InnerAddress.parse("10.64.200.201")
    peer, seen = Peer(key, (address,), secret), ObservedPeer(key, (address,))
    things = [key, secret, address, peer, seen, Entry((address,), 1, (0, 0)), [peer], {key: seen}]
    try:
        raise RuntimeError(things)
    except RuntimeError:
        said = traceback.format_exc()
    for thing in things:
        said += f"{thing} {thing!r} {thing:}"
    for canary in (KEY, "canary", "10.64.200.201", "200.201", r"\xc8\xc9"):
        assert canary not in said
