"""TLS for the exporter: its own certificate, and the authority whose clients may scrape.

`python -m jetplane.metrics.tls CERT KEY CLIENT_CA` says whether the files can be used: so the controller asks without
ever holding the key.
"""

from __future__ import annotations

import ssl
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from jetplane.errors import ConfigurationError

Mark = tuple[tuple[int, int, int], ...]
"""Inode, mtime and size of each file."""


@dataclass(frozen=True, slots=True)
class Files:
    """Three files in PEM: the exporter's certificate with what leads to its root, its key, and who signs clients."""

    cert: Path
    key: Path
    client_ca: Path

    def mark(self) -> Mark:
        """Something that differs once one of them was replaced or rewritten; of a missing file all zero."""
        return tuple(map(_mark, (self.cert, self.key, self.client_ca)))


def _mark(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def server_context(files: Files) -> ssl.SSLContext:
    """TLS 1.3, only with clients whose certificate the authority has signed, and without sessions to resume.

    Raises ConfigurationError naming the file that is missing, open to everybody, or not what it should be.
    """
    _refuse_open(files.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(_readable("tls_client_ca_file", files.client_ca))
    except ssl.SSLError:
        raise ConfigurationError(f"metrics.tls_client_ca_file: {files.client_ca}: {_NO_CERTIFICATE}") from None
    _readable("tls_key_file", files.key)
    try:
        context.load_cert_chain(_readable("tls_cert_file", files.cert), files.key, password=_no_passphrase)
    except ssl.SSLError as error:
        raise _explain(files, error) from None
    return context


_NO_CERTIFICATE = "holds no certificate in PEM"


def _no_passphrase() -> str:
    """OpenSSL would otherwise ask at the terminal. It takes the empty one for wrong."""
    return ""


def _explain(files: Files, error: ssl.SSLError) -> ConfigurationError:
    """OpenSSL does not say which of the two files it means; a pair that does not match is the only thing it names."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return ConfigurationError(f"metrics.tls_key_file: {files.key}: does not belong to {files.cert}")
    if b"-----BEGIN CERTIFICATE-----" not in files.cert.read_bytes():
        return ConfigurationError(f"metrics.tls_cert_file: {files.cert}: {_NO_CERTIFICATE}")
    return ConfigurationError(
        f"metrics.tls_key_file: {files.key}: holds no key in PEM that can be used with {files.cert}",
        hint="a key with a passphrase cannot be used: nobody is there to type it",
    )


def _readable(key: str, path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigurationError(f"metrics.{key}: {path}: cannot be read: {error.strerror}") from None
    return path


def _refuse_open(key: Path) -> None:
    try:
        mode = key.stat().st_mode
    except OSError:
        return  # what is wrong with it is told when it is read
    if mode & stat.S_IRWXO:
        raise ConfigurationError(
            f"metrics.tls_key_file: {key}: is open to every user (mode {stat.S_IMODE(mode):04o})",
            hint=f"chmod 600 {key}",
        )


def main(cert: str, key: str, client_ca: str) -> int:
    """Status 1 and one line on standard error when the files cannot be used."""
    try:
        server_context(Files(Path(cert), Path(key), Path(client_ca)))
    except ConfigurationError as error:
        print(f"{error}{f' ({error.hint})' if error.hint else ''}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
