"""Reads single values, and says what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import netaddr

from jetplane.errors import ConfigurationError


def fail(path: Path, key: str, value: object, expected: str) -> ConfigurationError:
    """The error that names file, key and value, and says what is expected."""
    return ConfigurationError(f"{path}: {key} = {toml(value)}: expected {expected}")


def toml(value: object) -> str:
    """The value as it would stand in the file."""
    return msgspec.json.encode(value, enc_hook=str).decode()


def read_address(text: str, version: Literal[4, 6] | None = None) -> netaddr.IPAddress | None:
    """An address in its usual form, of this family or any; None for what is none."""
    try:
        address = netaddr.IPAddress(text, version, flags=netaddr.INET_PTON)
    except (netaddr.AddrFormatError, ValueError):
        return None
    return address


def read_network(text: str) -> netaddr.IPNetwork | None:
    """A prefix or an address; None for what is neither."""
    try:
        return netaddr.IPNetwork(text)
    except (netaddr.AddrFormatError, ValueError):
        return None
