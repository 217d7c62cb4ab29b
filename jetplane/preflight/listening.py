"""Who listens in this network namespace, as proc(5) has it: nothing is bound, and nobody is asked."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

_LISTENS = {"udp": "07", "tcp": "0A"}  # include/net/tcp_states.h: UDP's bound sockets are in state CLOSE


def silent(addresses: Iterable[str], port: int) -> tuple[str, ...]:
    """Those at which nobody listens, as `10.64.0.1 (tcp)`. A socket at :: is believed to hear IPv4 as well."""
    found = {protocol: _listeners(protocol, port) for protocol in _LISTENS}
    return tuple(
        f"{text} ({protocol})"
        for text in addresses
        for protocol in _LISTENS
        if not found[protocol] & {text, "::", *(("0.0.0.0",) if ":" not in text else ())}
    )


def _listeners(protocol: str, port: int) -> set[str]:
    addresses = set()
    for table in (protocol, f"{protocol}6"):
        try:
            lines = Path(f"/proc/thread-self/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:  # no IPv6
            continue
        for line in lines:
            _, local, _, state = line.split()[:4]
            address, _, number = local.partition(":")
            if state == _LISTENS[protocol] and int(number, 16) == port:
                addresses.add(_address(bytes.fromhex(address)))
    return addresses


def _address(words: bytes) -> str:
    """The kernel prints words of 32 bits as numbers, in the machine's byte order: jetplane's machines' is little."""
    return str(ipaddress.ip_address(b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))))
