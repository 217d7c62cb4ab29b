"""Puts a release where the exporter finds it: whole or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jetplane.errors import JetplaneError

TEXT = "exposition.txt"
OPENMETRICS = "exposition.openmetrics"


@dataclass(frozen=True, slots=True)
class Exposition:
    """One release, in both formats that Prometheus reads."""

    text: bytes  # text format 0.0.4
    openmetrics: bytes  # OpenMetrics 1.0.0


def publish(directory: Path, exposition: Exposition) -> None:
    """Replace the last release in `directory`, made with mode 0755 if it is not there. Raises JetplaneError.

    Files are 0644, for the exporter's user. The one the exporter watches, exposition.txt, comes last.
    A release that changes nothing touches nothing.
    """
    try:
        directory.mkdir(mode=0o755, exist_ok=True)
        directory.chmod(0o755)  # whatever the umask
        _replace(directory / OPENMETRICS, exposition.openmetrics)
        _replace(directory / TEXT, exposition.text)
    except OSError as error:
        raise JetplaneError(f"{directory}: the metrics cannot be written: {error.strerror}") from None


def _replace(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o644)
        file.write(content)
    new.replace(path)
