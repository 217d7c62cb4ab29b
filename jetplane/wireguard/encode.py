"""Peers as WG_CMD_SET_DEVICE messages: as many peers in one message as fit, a peer in as many messages as it needs.

One message is one system call and one turn of the kernel's locks (RTNL and the device's), so its size bounds how long
others wait for RTNL. Forwarding takes neither lock.
"""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final

from jetplane.model import V4_MAPPED, InnerAddress, Peer, PublicKey
from jetplane.plan import DiscardEndpoint, MoveAddresses, PeerStep, RemovePeer, SetPeer
from jetplane.wireguard.attributes import (
    ALLOWED_IP_ADDRESS,
    ALLOWED_IP_FAMILY,
    ALLOWED_IP_MASK,
    DEVICE_FLAGS,
    DEVICE_FWMARK,
    DEVICE_LISTEN_PORT,
    DEVICE_PEERS,
    DEVICE_PRIVATE_KEY,
    DEVICE_REPLACE_PEERS,
    HEADER,
    HEADROOM,
    NESTED,
    PEER_ALLOWED_IPS,
    PEER_ENDPOINT,
    PEER_FLAGS,
    PEER_KEEPALIVE,
    PEER_PRESHARED_KEY,
    PEER_PUBLIC_KEY,
    PEER_REMOVE,
    PEER_REPLACE_ALLOWED_IPS,
    PEER_UPDATE_ONLY,
    U16,
    U32,
    attribute,
    name_attribute,
)
from jetplane.wireguard.idle import DISCARD

MESSAGE_LIMIT: Final = 16 * 1024
"""Bytes. From 4 to 60 KiB, 10,000 peers take the same time (a key agreement each), so the shorter turn wins."""

REMOVALS_PER_MESSAGE: Final = 64
"""Each removal waits for an RCU grace period, with RTNL and the device's lock held. Measured on Linux 6.12, emulated on
one processor: 2,000 removals take 8 s one by one, 1.6 s in sixteens, 0.4 s from 64 a message on. Forwarding does not
mind any of them (the longest gap of a stream of pings is as without), but others wait for RTNL: 12 ms with 64."""

_V4: Final = HEADER.pack(28, NESTED) + attribute(ALLOWED_IP_FAMILY, U16.pack(socket.AF_INET))
_V4_HEAD: Final = _V4 + HEADER.pack(8, ALLOWED_IP_ADDRESS)
_V4_TAIL: Final = attribute(ALLOWED_IP_MASK, b"\x20")
_V6: Final = HEADER.pack(40, NESTED) + attribute(ALLOWED_IP_FAMILY, U16.pack(socket.AF_INET6))
_V6_HEAD: Final = _V6 + HEADER.pack(20, ALLOWED_IP_ADDRESS)
_V6_TAIL: Final = attribute(ALLOWED_IP_MASK, b"\x80")
_LARGEST_ALLOWED_IP: Final = 40

_REMOVE: Final = attribute(PEER_FLAGS, U32.pack(PEER_REMOVE))
_REPLACE: Final = attribute(PEER_FLAGS, U32.pack(PEER_REPLACE_ALLOWED_IPS))
# For the rest of a peer that did not fit, too: if it was removed meanwhile it must not come back without its PSK.
_UPDATE_ONLY: Final = attribute(PEER_FLAGS, U32.pack(PEER_UPDATE_ONLY))
_DISCARD: Final = attribute(PEER_ENDPOINT, DISCARD)
_SHORT_PEER: Final = HEADER.size + (HEADER.size + 32) + len(_UPDATE_ONLY) + len(_DISCARD)


def encode_device(name: str, private_key: bytearray, listen_port: int, fwmark: int) -> bytearray:
    """Return the message that sets all but the peers. It holds the key: the caller overwrites it after sending."""
    settings = attribute(DEVICE_LISTEN_PORT, U16.pack(listen_port)) + attribute(DEVICE_FWMARK, U32.pack(fwmark))
    front = bytes(HEADROOM) + name_attribute(name) + settings + HEADER.pack(HEADER.size + 32, DEVICE_PRIVATE_KEY)
    # Sized once: a bytearray that grows leaves copies behind.
    message = bytearray(len(front) + 32)
    message[: len(front)] = front
    message[len(front) :] = private_key
    return message


def encode_removal_of_all(name: str) -> bytearray:
    """Return the message that removes every peer."""
    return bytearray(HEADROOM) + name_attribute(name) + attribute(DEVICE_FLAGS, U32.pack(DEVICE_REPLACE_PEERS))


def encode_steps(name: str, steps: Iterable[PeerStep], *, limit: int = MESSAGE_LIMIT) -> Iterator[bytearray]:
    """Yield the messages that carry out the steps in order, none longer than `limit` bytes (at least 256)."""
    message = _Message(name, limit)
    for step in steps:
        match step:
            case RemovePeer(public_key=key):
                if message.removals >= REMOVALS_PER_MESSAGE or message.room < _SHORT_PEER:
                    yield message.finish()
                    message = _Message(name, limit)
                message.add_peer(_KEY_HEAD + key + _REMOVE)
                message.removals += 1
            case DiscardEndpoint(public_key=key):
                if message.room < _SHORT_PEER:
                    yield message.finish()
                    message = _Message(name, limit)
                message.add_peer(_KEY_HEAD + key + _UPDATE_ONLY + _DISCARD)
            case SetPeer(peer=peer):
                if len(peer.allowed_ips) <= _FEW:
                    whole = _peer_head(peer) + _allowed_ips(peer.allowed_ips)
                    if message.room < HEADER.size + len(whole):
                        yield message.finish()
                        message = _Message(name, limit)
                    message.add_peer(whole)
                else:
                    message = yield from _add(message, _peer_head(peer), peer.public_key, peer.allowed_ips)
            case MoveAddresses(public_key=key, addresses=addresses):
                message = yield from _add(message, _KEY_HEAD + key + _UPDATE_ONLY, key, addresses)
    if not message.empty:
        yield message.finish()


def _add(
    message: _Message, head: bytes, key: PublicKey, addresses: Sequence[InnerAddress]
) -> Generator[bytearray, None, _Message]:
    """Add a peer with these allowed IPs, in as many messages as it takes; return the one to go on with."""
    at, left = 0, len(addresses)
    while True:
        room = message.room - 2 * HEADER.size - len(head)
        if room < min(left, 1) * _LARGEST_ALLOWED_IP:
            yield message.finish()
            message = _Message(message.name, message.limit)
            continue
        taken = min(left, room // _LARGEST_ALLOWED_IP)
        message.add_peer(head + _allowed_ips(addresses[at : at + taken]))
        at, left = at + taken, left - taken
        if not left:
            return message
        head = _KEY_HEAD + key + _UPDATE_ONLY


_KEY_HEAD: Final = HEADER.pack(HEADER.size + 32, PEER_PUBLIC_KEY)
_FEW: Final = 2
"""Allowed IPs that fit any message beside all else a peer has, and that most peers have: the short way is for these."""


def _peer_head(peer: Peer) -> bytes:
    """Everything about a peer but its allowed IPs, which it replaces."""
    if peer.preshared_key is None:
        return _KEY_HEAD + peer.public_key + _replace(peer.persistent_keepalive)
    secret = attribute(PEER_PRESHARED_KEY, peer.preshared_key)
    return _KEY_HEAD + peer.public_key + secret + _replace(peer.persistent_keepalive)


@lru_cache(maxsize=16)
def _replace(keepalive: int) -> bytes:
    """What most peers have in common."""
    return _REPLACE + attribute(PEER_KEEPALIVE, U16.pack(keepalive))


def _allowed_ips(addresses: Sequence[InnerAddress]) -> bytes:
    packed = b"".join([
        _V4_HEAD + address[12:] + _V4_TAIL if address.startswith(V4_MAPPED) else _V6_HEAD + address + _V6_TAIL
        for address in addresses
    ])  # fmt: skip
    return HEADER.pack(HEADER.size + len(packed), PEER_ALLOWED_IPS | NESTED) + packed


class _Message:
    """One SET_DEVICE message being filled with peers."""

    __slots__ = ("_data", "_peers", "limit", "name", "removals", "room")

    def __init__(self, name: str, limit: int) -> None:
        self.name, self.limit = name, limit
        self._data = bytearray(HEADROOM) + name_attribute(name)
        self._peers = len(self._data)  # where the list of peers starts
        self._data += bytes(HEADER.size)
        self.room = limit - len(self._data)  # bytes that are left
        self.removals = 0

    @property
    def empty(self) -> bool:
        return len(self._data) == self._peers + HEADER.size

    def add_peer(self, attributes: bytes) -> None:
        self._data += HEADER.pack(HEADER.size + len(attributes), NESTED)
        self._data += attributes
        self.room -= HEADER.size + len(attributes)

    def finish(self) -> bytearray:
        HEADER.pack_into(self._data, self._peers, len(self._data) - self._peers, DEVICE_PEERS | NESTED)
        return self._data
