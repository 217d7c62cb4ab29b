"""What must not be in the controller is not there: its private key is gone after use, dumps never come."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jetplane.model import PresharedKey
from jetplane.plan import SetPeer
from tests.netns.wireguard_tunnel import PORT, Tunnel, peer

CONFIGURE = """
import sys
from pathlib import Path
from jetplane.wireguard import choose
from jetplane.wireguard.interface import Device
kind, name, file = sys.argv[1:]
backend = choose(kind)
backend.configure(Device(name, PORT, Path(file)))
backend.configure(Device(name, PORT, Path(file)))
backend.observe(name)
""".replace("PORT", str(PORT))

WAIT = """
print("done", flush=True)
sys.stdin.readline()
"""

KEEP = """
kept = Path(file).read_text()
"""


def memory(pid: int) -> Iterator[bytes]:
    """Every readable region of a process, some bytes twice so that nothing is cut at an edge."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as mem:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            region = re.match(r"(\w+)-(\w+) r", line)
            if region is None or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(n, 16) for n in region.groups())
            for at in range(start, end, 1 << 24):
                mem.seek(at)
                yield mem.read(min(end, at + (1 << 24) + 128) - at)


def forms(key: bytes) -> dict[str, bytes]:
    """A key as it could stand in memory; parts of it are enough to find it."""
    text = b64encode(key)
    return {
        "its first half": key[:16],
        "its second half": key[16:],
        "base64": text[:24],
        "hexadecimal": key[:16].hex().encode(),
    }


def found(pid: int, needles: dict[str, bytes]) -> set[str]:
    return {name for part in memory(pid) for name, needle in needles.items() if needle in part}


def test_the_private_key_is_not_in_memory_after_use(tunnel: Tunnel) -> None:
    """The control: the same process, after it has read the file as one would, is caught with it."""
    file = str(tunnel.device.private_key_file)
    key = b64decode(tunnel.device.private_key_file.read_bytes())
    command = [sys.executable, "-c", CONFIGURE + WAIT + KEEP + WAIT, tunnel.backend.kind, tunnel.name, file]
    with tunnel.inside(lambda: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == b"done\n"
            assert found(process.pid, forms(key)) == set()
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"done\n"
            assert found(process.pid, forms(key)) == {"base64"}
        finally:
            process.kill()
    assert b64decode(tunnel.dump()[0][0]) == key


def test_what_carried_the_key_is_overwritten(tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytearray] = []
    send = tunnel.backend._set  # type: ignore[attr-defined]

    def watch(name: str, doing: str, messages: tuple[bytearray, ...]) -> None:
        assert any(messages[0])
        sent.extend(messages)
        send(name, doing, messages)

    monkeypatch.setattr(tunnel.backend, "_set", watch)
    tunnel.configure()
    assert [any(message) for message in sent] == [False]


def test_the_dump_leaves_its_child_without_keys_endpoints_and_times(tunnel: Tunnel) -> None:
    secret = PresharedKey(bytes(range(100, 132)))
    tunnel.configure()
    tunnel.apply([SetPeer(replace(peer(1), preshared_key=secret))])
    tunnel.wg("peer", peer(1).public_key.text(), "endpoint", "192.0.2.77:4567")
    command = [sys.executable, "-m", "jetplane.wireguard.dump", tunnel.backend.kind, tunnel.name]
    child = tunnel.inside(lambda: subprocess.run(command, capture_output=True, check=True))
    private = b64decode(tunnel.device.private_key_file.read_bytes())
    assert child.stderr == b""
    assert bytes(peer(1).public_key) in child.stdout, "the control: the key that may be told"
    for name, needle in (forms(private) | forms(secret) | {"endpoint": bytes((192, 0, 2, 77))}).items():
        assert needle not in child.stdout, name
    # 10 bytes for the device, 39 for the peer, 16 for each of its two addresses: no room for anything else
    assert len(child.stdout) == 10 + 39 + 2 * 16


SEALED = """
import contextlib, ctypes, io, resource
from jetplane.wireguard import dump
with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())):
    dump.main("userspace", "nosuch")
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_nobody_takes_a_core_of_the_child() -> None:
    """prctl 3 is PR_GET_DUMPABLE."""
    assert subprocess.check_output([sys.executable, "-c", SEALED], text=True).split() == ["0", "0", "0"]
