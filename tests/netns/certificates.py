"""An authority of the tests, and certificates signed by it, all in PEM."""

from __future__ import annotations

import subprocess
from pathlib import Path

_COMMON = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


class Authority:
    """Makes its directory, its own certificate, and others on demand."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self.ca, self._key = directory / "ca.pem", directory / "ca.key"
        _openssl("req", "-x509", *_COMMON, "-subj", "/CN=lab", "-keyout", self._key, "-out", self.ca)

    def issue(self, name: str, extension: str) -> tuple[Path, Path]:
        """A certificate with an extension like `subjectAltName=IP:127.0.0.1`, and its key."""
        pem, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        signed = ("-x509", "-CA", self.ca, "-CAkey", self._key, "-addext", extension)
        _openssl("req", *signed, *_COMMON, "-subj", f"/CN={name}", "-keyout", key, "-out", pem)
        key.chmod(0o600)
        return pem, key


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
