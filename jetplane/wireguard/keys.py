"""Reads private key files, and nothing else.

The key lives in one bytearray of fixed size that is overwritten when its borrower is done. Nothing immutable is ever
made of it: Python cannot erase `bytes` or `str`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jetplane.errors import ConfigurationError

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}
_TEXT_LENGTH: Final = 44  # 32 bytes in base64, one "=" at the end
_EXPECTED: Final = f"is not a private key: expected {_TEXT_LENGTH} characters of base64"
_HINT: Final = "make one: (umask 077; wg genkey > FILE)"


@contextmanager
def private_key(path: Path) -> Iterator[bytearray]:
    """Lend the 32 bytes of the key in `path` (base64, as `wg genkey` writes it); they are zero afterwards.

    Raises ConfigurationError naming the file when it is missing, open to everybody, or not a key.
    """
    text = bytearray(_TEXT_LENGTH + 4)  # room for a line end, and for one byte that says "too long"
    key = bytearray(32)
    try:
        _decode(text, _read(path, text), key, path)
        yield key
    finally:
        wipe(text)
        wipe(key)


def wipe(secret: bytearray) -> None:
    """Overwrite in place."""
    secret[:] = bytes(len(secret))


def _read(path: Path, text: bytearray) -> int:
    """Fill `text` from the file and return how many bytes came."""
    try:
        # O_NONBLOCK: a FIFO must not stop the node.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(f"{path}: private key cannot be read: {error.strerror}", hint=_HINT) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"{path}: private key is not in a regular file", hint=_HINT)
        if status.st_mode & stat.S_IRWXO:
            raise ConfigurationError(
                f"{path}: private key is open to every user (mode {stat.S_IMODE(status.st_mode):04o})",
                hint=f"chmod 600 {path}; if others may have read it, make a new one",
            )
        return os.readv(descriptor, [text])
    except OSError as error:
        raise ConfigurationError(f"{path}: private key cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _decode(text: bytearray, length: int, key: bytearray, path: Path) -> None:
    while length and text[length - 1] in b"\r\n \t":
        length -= 1
    if length != _TEXT_LENGTH or text[_TEXT_LENGTH - 1] != ord("="):
        raise ConfigurationError(f"{path}: {_EXPECTED}", hint=_HINT)
    bits = count = at = 0
    for index in range(_TEXT_LENGTH - 1):
        value = _VALUES.get(text[index])
        if value is None:
            raise ConfigurationError(f"{path}: is not a private key: character {index + 1} is not base64", hint=_HINT)
        bits = (bits << 6 | value) & 0x3FFF
        count += 6
        if count >= 8:
            count -= 8
            key[at] = bits >> count & 0xFF
            at += 1
    if bits & 3:  # 43 characters are 258 bits: the last two must be zero
        raise ConfigurationError(f"{path}: is not a private key: the last character is wrong", hint=_HINT)
    if not any(key):
        raise ConfigurationError(f"{path}: is not a private key: it is all zeros", hint=_HINT)
