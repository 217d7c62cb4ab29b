"""What must not be found: the keys and addresses of a lab's subscribers, and how to look for them."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from jetplane.lab.topology import Lab

_KEY = re.compile(rb"(?<![\w+/])[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=(?![\w+/=])")
_IPV4 = re.compile(rb"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_IPV6 = re.compile(rb"(?<![\w:])(?=[0-9a-f:]*:[0-9a-f:]*:)[0-9a-f]{1,4}:[0-9a-f:]*[0-9a-f:](?![\w:])")


def keys(lab: Lab) -> dict[str, bytes]:
    """Name → public key, in base64, of both subscribers."""
    return {f"key of subscriber {n}": key.encode() for n, key in enumerate(lab.public_keys)}


def inner(lab: Lab) -> dict[str, bytes]:
    """Name → address inside the tunnel, as text."""
    return {f"inner {a}": str(a).encode() for s in lab.plan.subscribers for a in (s.inner_ipv4, s.inner_ipv6)}


def outer(lab: Lab) -> dict[str, bytes]:
    """Name → address that a subscriber comes from, as text."""
    addresses = (interface.ip for s in lab.plan.subscribers for interface in (s.outer_ipv4, s.outer_ipv6))
    return {f"outer {address}": str(address).encode() for address in addresses}


SITES = {4: "192.0.2.177", 6: "2001:db8:1::b7b7"}
"""Whom they talk to: addresses of which no module has a constant, other than the lab's own sites."""


def sites() -> dict[str, bytes]:
    """Name → address that they talk to, as text."""
    return {f"site {site}": site.encode() for site in SITES.values()}


def in_text(text: bytes, needles: dict[str, bytes]) -> set[str]:
    """Names of what stands in a text, with a port behind it or not, but not as a part of a longer word or address."""
    return {name for name, word in needles.items() if re.search(_alone(word), text)}


def _alone(word: bytes) -> bytes:
    end = rb"(?![\w:])" if b":" in word else rb"(?![\w])(?!\.\d)"
    return rb"(?<![\w.])" + re.escape(word) + end


def patterns(text: bytes, allowed: Iterable[str] = ()) -> set[bytes]:
    """Everything in a text that looks like a key or an address of anybody; `allowed` are the node's own."""
    known = {word.encode() for word in allowed}
    return {found for pattern in (_KEY, _IPV4, _IPV6) for found in pattern.findall(text)} - known


def in_memory(addresses: dict[str, bytes]) -> dict[str, bytes]:
    """Forms that these addresses can have in a process: as text, in binary, and that in base64.

    Four bytes are anywhere by chance: an IPv4 address in binary is looked for as the data path has it, inside IPv6.
    """
    forms: dict[str, bytes] = {}
    for name, text in addresses.items():
        forms[f"{name} as text"] = text
        if b":" in text:
            packed = IPv6Address(text.decode()).packed
            forms[f"{name} in binary"] = packed
            forms[f"{name} in base64"] = b64encode(packed[:15])
        else:
            mapped = bytes(10) + b"\xff\xff" + IPv4Address(text.decode()).packed
            forms[f"{name} in binary"] = mapped
            forms[f"{name} in base64"] = b64encode(mapped[1:])
    return forms


def keys_in_memory(lab: Lab) -> dict[str, bytes]:
    """The same for keys: half a key is enough."""
    forms = {}
    for name, text in keys(lab).items():
        forms |= {f"{name} as text": text[:24], f"{name} in binary": b64decode(text)[:16]}
    return forms
