"""The node's own public keys, computed by a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from jetplane.wireguard.own import own_keys


def test_they_are_what_wg_says(tmp_path: Path) -> None:
    expected = set()
    for name in ("a.key", "b.key"):
        private = subprocess.check_output(["wg", "genkey"])
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_bytes(private)
        expected.add(subprocess.check_output(["wg", "pubkey"], input=private, text=False).decode().strip())
    assert {key.text() for key in own_keys(sorted(tmp_path.iterdir()))} == expected


def test_none_are_known_where_a_private_key_cannot_be_read(tmp_path: Path) -> None:
    assert own_keys([tmp_path / "none"]) == frozenset()


def test_who_asks_does_not_load_the_library_that_leaves_copies_behind() -> None:
    asking = "import sys, jetplane.controller; sys.exit('nacl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asking], check=False).returncode == 0
