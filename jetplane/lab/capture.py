"""Watching the wire between node and internet, to prove what is not on it."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Self

from jetplane.lab import links, namespaces
from jetplane.lab.addresses import INNER_IPV4, INNER_IPV6

_ETH_P_ALL = 0x0003
_ETH_P_IP = 0x0800
_ETH_P_IPV6 = 0x86DD
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_QDISC_BYPASS = 20
_SNAP = 256  # bytes of each frame unless told otherwise; enough for an ICMP error with the headers embedded in it
_LINK_LOCAL = IPv6Network("fe80::/10")
_QUERIES = {1: (0, 8), 58: (128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143)}  # no packet embedded in these

# Classic BPF (linux/filter.h): load a byte, half word or word; jump if equal; return.
_LDB, _LDH, _LDW, _JEQ, _RET = 0x30, 0x28, 0x20, 0x15, 0x06
_PACKET_TYPE = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE
_OUTGOING = 4

_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


@dataclass(frozen=True, slots=True)
class Sighting:
    """The addresses of one packet on the wire, and what it carries."""

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    protocol: int
    ports: tuple[int, int] | None  # of TCP and UDP: source, destination


class Tap:
    """A packet socket (packet(7)) on one interface; it keeps frames until they are asked for."""

    def __init__(
        self, namespace: str, interface: str, program: Sequence[_Instruction] = (), *, snap: int = _SNAP
    ) -> None:
        self._snap = snap
        self._socket = namespaces.inside(namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        if program:
            _attach(self._socket, program)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.setblocking(False)
        namespaces.inside(namespace, lambda: self._socket.bind((interface, _ETH_P_ALL)))

    def frames(self) -> Iterator[bytes]:
        """Yield what has come since the last call, the first `snap` bytes of each frame."""
        while True:
            try:
                yield self._socket.recv(self._snap)
            except BlockingIOError:
                return

    def lost(self) -> int:
        """How many frames did not fit since the last call."""
        _, drops = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(drops)

    def close(self) -> None:
        """Stop watching."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LeakWatch(Tap):
    """Keeps only frames from the node that tell something of a subscriber.

    The kernel's filter lets through what has another source than `allowed`, and every ICMP packet, whose inside is
    looked at here: so downloads cost nothing and no suspect is ever lost in them.
    """

    def __init__(self, namespace: str, interface: str, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(map(ip_address, allowed))
        super().__init__(namespace, interface, _program(self._allowed))

    def leaks(self) -> list[str]:
        """Describe every leak since the last call."""
        return [leak for frame in self.frames() if (leak := self._judge(frame))]

    def _judge(self, frame: bytes) -> str:
        if (seen := sighting(frame)) is None:
            return ""
        if seen.source not in self._allowed and not _is_link_local(seen.source):
            return f"source {seen.source}"
        embedded = _embedded(frame, seen)
        for address in embedded:
            if address in INNER_IPV4 or address in INNER_IPV6:
                return f"{address} inside an ICMP error"
        return ""


def udp_frame(namespace: str, interface: str, source: str, destination: str) -> bytes:
    """An Ethernet frame from the interface to whoever is at its other end, with an empty UDP datagram in IPv4."""
    payload = struct.pack(">HHHH", 40000, 40000, 8, 0)  # no checksum: allowed in IPv4 (RFC 768)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, socket.IPPROTO_UDP, 0)
    header = head + IPv4Address(source).packed + IPv4Address(destination).packed
    total = sum(struct.unpack(">10H", header))
    header = header[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + header[12:]
    ethernet = b"\xff" * 6 + links.hardware_address(namespace, interface) + struct.pack(">H", _ETH_P_IP)
    return ethernet + header + payload


def send_frame(namespace: str, interface: str, frame: bytes, *, past_guards: bool) -> None:
    """Send a frame as it is; `past_guards` hands it to the driver without traffic control's hooks."""
    with namespaces.inside(namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) as sender:
        if past_guards:
            sender.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        namespaces.inside(namespace, lambda: sender.bind((interface, 0)))
        try:
            sender.send(frame)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # what traffic control says when it has dropped the packet
                raise


def sighting(frame: bytes) -> Sighting | None:
    """Read an Ethernet frame; None when it carries no IP."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _ETH_P_IP and len(frame) >= 34:
        header = 14 + 4 * (frame[14] & 15)
        return _sighting(IPv4Address(frame[26:30]), IPv4Address(frame[30:34]), frame[23], frame[header:])
    if kind == _ETH_P_IPV6 and len(frame) >= 54:
        return _sighting(IPv6Address(frame[22:38]), IPv6Address(frame[38:54]), frame[20], frame[54:])
    return None


def _sighting(
    source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address, protocol: int, payload: bytes
) -> Sighting:
    has_ports = protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP) and len(payload) >= 4
    return Sighting(source, destination, protocol, struct.unpack(">HH", payload[:4]) if has_ports else None)


def _embedded(frame: bytes, seen: Sighting) -> tuple[IPv4Address | IPv6Address, ...]:
    """The addresses of the packet that an ICMP error carries."""
    start = 14 + 4 * (frame[14] & 15) if seen.source.version == 4 else 54
    icmp = frame[start:]
    if seen.protocol not in _QUERIES or not icmp or icmp[0] in _QUERIES[seen.protocol]:
        return ()
    inner = icmp[8:]
    if seen.source.version == 4 and len(inner) >= 20:
        return IPv4Address(inner[12:16]), IPv4Address(inner[16:20])
    if seen.source.version == 6 and len(inner) >= 40:
        return IPv6Address(inner[8:24]), IPv6Address(inner[24:40])
    return ()


def _is_link_local(address: IPv4Address | IPv6Address) -> bool:
    return address.version == 6 and (address in _LINK_LOCAL or address.is_unspecified)


def _program(allowed: Iterable[IPv4Address | IPv6Address]) -> list[_Instruction]:
    """Reject what leaves for the node, what is no IP, and what has an allowed source and is not ICMP."""
    reject, accept = (_RET, 0, 0, 0), (_RET, 0, 0, _SNAP)
    ipv4 = [(_LDB, 0, 0, 23), (_JEQ, 0, 1, 1), accept, (_LDW, 0, 0, 26)]
    ipv6 = [(_LDB, 0, 0, 20), (_JEQ, 0, 1, 58), accept]
    for address in allowed:
        if address.version == 4:
            ipv4 += [(_JEQ, 0, 1, int(address)), reject]
        else:
            for number, word in enumerate(struct.unpack(">4I", address.packed)):
                ipv6 += [(_LDW, 0, 0, 22 + 4 * number), (_JEQ, 0, 7 - 2 * number, word)]
            ipv6 += [reject]
    head = [(_LDW, 0, 0, _PACKET_TYPE), (_JEQ, 0, 1, _OUTGOING), reject, (_LDH, 0, 0, 12)]
    body4 = [(_JEQ, 1, 0, _ETH_P_IP), (0x05, 0, 0, len(ipv4) + 1), *ipv4, accept]
    body6 = [(_JEQ, 1, 0, _ETH_P_IPV6), reject, *ipv6, accept]
    return head + body4 + body6


def _attach(handle: socket.socket, program: Sequence[_Instruction]) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    handle.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    )
