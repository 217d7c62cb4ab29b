"""Peers and settings as requests of the userspace protocol (see uapi)."""

from __future__ import annotations

import socket
from binascii import hexlify
from collections.abc import Iterable, Iterator
from typing import Final

from jetplane.model import V4_MAPPED, InnerAddress
from jetplane.plan import DiscardEndpoint, MoveAddresses, PeerStep, RemovePeer, SetPeer
from jetplane.wireguard.idle import DISCARD_TEXT

STEPS_PER_REQUEST: Final = 512
_HEX: Final = b"0123456789abcdef"


def encode_device(private_key: bytearray, listen_port: int | None, fwmark: int) -> bytearray:
    """Return the request that sets all but the peers. It holds the key: the caller overwrites it after sending.

    `listen_port` None leaves the port alone: wireguard-go closes and opens its sockets even for the port it has.
    """
    port = b"" if listen_port is None else b"listen_port=%d\n" % listen_port
    front, back = b"set=1\nprivate_key=", b"\n" + port + b"fwmark=%d\n\n" % fwmark
    # Sized once: a bytearray that grows leaves copies behind.
    request = bytearray(len(front) + 64 + len(back))
    request[: len(front)] = front
    request[-len(back) :] = back
    for index, byte in enumerate(private_key):
        request[len(front) + 2 * index] = _HEX[byte >> 4]
        request[len(front) + 2 * index + 1] = _HEX[byte & 15]
    return request


def encode_steps(steps: Iterable[PeerStep], *, per_request: int = STEPS_PER_REQUEST) -> Iterator[bytes]:
    """Yield the requests that carry out the steps in order."""
    lines: list[bytes] = []
    count = 0
    for step in steps:
        lines += _encode_step(step)
        count += 1
        if count == per_request:
            yield b"\n".join((b"set=1", *lines, b"\n"))
            lines, count = [], 0
    if lines:
        yield b"\n".join((b"set=1", *lines, b"\n"))


def _encode_step(step: PeerStep) -> Iterator[bytes]:
    match step:
        case RemovePeer(public_key=key):
            yield b"public_key=" + hexlify(key)
            yield b"remove=true"
        case SetPeer(peer=peer):
            yield b"public_key=" + hexlify(peer.public_key)
            if peer.preshared_key is not None:
                yield b"preshared_key=" + hexlify(peer.preshared_key)
            yield b"persistent_keepalive_interval=%d" % peer.persistent_keepalive
            yield b"replace_allowed_ips=true"
            for address in peer.allowed_ips:
                yield b"allowed_ip=" + _encode_address(address)
        case MoveAddresses(public_key=key, addresses=addresses):
            yield b"public_key=" + hexlify(key)
            yield b"update_only=true"
            for address in addresses:
                yield b"allowed_ip=" + _encode_address(address)
        case DiscardEndpoint(public_key=key):
            yield b"public_key=" + hexlify(key)
            yield b"update_only=true"
            yield b"endpoint=" + DISCARD_TEXT


def _encode_address(address: InnerAddress) -> bytes:
    if address.startswith(V4_MAPPED):
        return b"%d.%d.%d.%d/32" % tuple(address[12:])
    return socket.inet_ntop(socket.AF_INET6, address).encode() + b"/128"
