"""Public keys from private ones: X25519 with the base point (RFC 7748, section 6.1), by libsodium."""

from __future__ import annotations

from pathlib import Path

from nacl.bindings import crypto_scalarmult_base

from jetplane.model import PublicKey
from jetplane.wireguard.keys import private_key


def public_key(file: Path) -> PublicKey:
    """The public key that belongs to the private key in `file`.

    For the commands of an operator only: libsodium's binding takes immutable bytes, which Python cannot erase, so a
    long-lived process must not call this. Raises ConfigurationError as `private_key` does.
    """
    with private_key(file) as key:
        return PublicKey(crypto_scalarmult_base(bytes(key)))
