"""The files that give a node access to NATS: credentials, certificates, keys. None is kept open or in memory here."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

from jetplane.config import Nats
from jetplane.errors import ConfigurationError


def node_name(settings: Nats) -> str:
    """How this node is called in the bucket of acknowledgements."""
    return settings.node or os.uname().nodename.strip(".")


def tls_context(settings: Nats) -> ssl.SSLContext:
    """What a server's certificate is checked by, read anew for every connection. Raises OSError or ValueError."""
    context = ssl.create_default_context(cafile=settings.tls_ca_file or None)
    if settings.tls_cert_file:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    return context


def check_files(settings: Nats) -> None:
    """Raise ConfigurationError for a file that is missing, open to everybody, or not what it should be."""
    for file in filter(None, (settings.credentials_file, settings.tls_key_file)):
        _check_secret(Path(file))
    try:
        tls_context(settings)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else "not PEM"
        raise ConfigurationError(
            f"nats: tls_ca_file, tls_cert_file or tls_key_file cannot be used: {what}",
            hint="each is a file in PEM; the key belongs to the certificate and has no passphrase",
        ) from None


def _check_secret(file: Path) -> None:
    try:
        mode = file.stat().st_mode
        file.open("rb").close()
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from None
    if mode & stat.S_IRWXO:
        raise ConfigurationError(
            f"{file}: is open to every user (mode {stat.S_IMODE(mode):04o})", hint=f"chmod 600 {file}"
        )
