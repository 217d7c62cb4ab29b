"""The node's own public keys, without its private ones ever being in the controller's memory as they are computed.

`python -m jetplane.wireguard.own FILE…` writes 32 bytes a file on its standard output: libsodium's binding leaves
copies of a private key behind, so a short-lived process does it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import jetplane
from jetplane.errors import JetplaneError
from jetplane.model import PublicKey
from jetplane.privacy.process import forbid_core_dumps

DEADLINE_S: Final = 20.0


def own_keys(files: Iterable[Path]) -> frozenset[PublicKey]:
    """The public keys that belong to the private keys in these files; none when they cannot be had.

    A record with such a key is no subscriber's, and WireGuard would pass over it in silence.
    """
    command = [sys.executable, "-P", "-m", "jetplane.wireguard.own", *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(Path(jetplane.__file__).parents[1])}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    said = done.stdout if done.returncode == 0 and len(done.stdout) % 32 == 0 else b""
    return frozenset(PublicKey(said[at : at + 32]) for at in range(0, len(said), 32))


def main(*files: str) -> int:
    """Run in the child. Returns its exit status."""
    from jetplane.wireguard.public import public_key  # the controller spares itself libsodium

    try:
        forbid_core_dumps()
        answer = b"".join(public_key(Path(file)) for file in files)
    except (OSError, JetplaneError):
        return 1
    sys.stdout.buffer.write(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
