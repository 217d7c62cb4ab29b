"""Searches the memory of processes for what a device knows: `python -m jetplane.wireguard.search KIND NAME N ASKED…`.

Each of ASKED is `PID:KINDS`, kinds out of endpoint, private, preshared and public, with commas between them. N
of the peers are chosen by chance: a leak is no matter of a single one. On its standard output it writes one JSON
object: how many peers there are, how many secrets were searched for, and where they were found, as
[pid, what, form, how often]. The secrets themselves go nowhere.
"""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Final

from jetplane.privacy.process import forbid_core_dumps
from jetplane.wireguard import everything
from jetplane.wireguard.everything import Device, Peer

WHAT: Final = {
    "endpoint": "an endpoint",
    "private": "the private key",
    "preshared": "a preshared key",
    "public": "a public key",
}

_CHUNK: Final = 16 << 20
_OVERLAP: Final = 256
"""Read twice, so that nothing is cut at an edge."""

_REGION: Final = re.compile(r"(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) rw")

Needles = Mapping[str, Mapping[str, list[bytes]]]
"""Kind → form → what to search for."""


def needles(device: Device, most: int, rng: random.Random) -> Needles:
    """What to search for."""
    peers = list(device.peers.values())
    seen = [peer for peer in peers if peer.is_located]
    secret = [peer for peer in peers if peer.preshared_key]
    return {
        "private": forms([device.private_key] if device.private_key else []),
        "preshared": forms(peer.preshared_key for peer in _some(secret, most, rng)),
        "public": forms(peer.public_key for peer in _some(peers, most, rng)),
        "endpoint": places(_some(seen, most, rng)),
    }


def _some(peers: list[Peer], most: int, rng: random.Random) -> list[Peer]:
    return rng.sample(peers, min(most, len(peers)))


def forms(keys: Iterable[bytes]) -> dict[str, list[bytes]]:
    """Keys as they could stand in memory; half of one is enough to find it."""
    found: dict[str, list[bytes]] = {"binary": [], "base64": [], "hexadecimal": []}
    for key in keys:
        found["binary"] += [key[:16], key[16:]]
        found["base64"].append(b64encode(key)[:40])
        found["hexadecimal"] += [key.hex().encode(), key.hex().upper().encode()]
    return found


def places(peers: Iterable[Peer]) -> dict[str, list[bytes]]:
    """Endpoints as they could. Four bytes alone are found by chance, so IPv4 in binary is searched with its port."""
    found: dict[str, list[bytes]] = {"binary": [], "text": [], "base64": []}
    for peer in peers:
        family = socket.AF_INET6 if ":" in peer.host else socket.AF_INET
        packed, port = socket.inet_pton(family, peer.host), struct.pack("!H", peer.port)
        found["binary"] += [packed] if family == socket.AF_INET6 else [port + packed, packed + port]
        text = (f"[{peer.host}]" if family == socket.AF_INET6 else peer.host) + f":{peer.port}"
        found["text"].append(text.encode())
        found["base64"].append(b64encode(text.encode())[: 4 * (len(text) // 3)])
    return found


def memory(pid: int) -> Iterator[bytes]:
    """Everything that a process can have written. Raises OSError when it may not be read."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as mem:
        for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            if region := _REGION.match(line):
                yield from _region(mem, int(region["start"], 16), int(region["end"], 16))


def _region(mem: FileIO, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, _CHUNK):
        try:
            mem.seek(at)
            yield mem.read(min(end, at + _CHUNK + _OVERLAP) - at)
        except OSError:  # unmapped meanwhile, or a device's
            continue


def search(pid: int, kinds: Iterable[str], wanted: Needles) -> list[tuple[int, str, str, int]]:
    """(pid, what, form, how often) of everything found. A process that has ended holds nothing."""
    found: Counter[tuple[str, str]] = Counter()
    try:
        for part in memory(pid):
            for kind in kinds:
                for form, texts in wanted[kind].items():
                    found[kind, form] += sum(part.count(text) for text in texts)
    except FileNotFoundError:
        return []
    return [(pid, WHAT[kind], form, count) for (kind, form), count in sorted(found.items()) if count]


def main(kind: str, name: str, most: str, *asked: str) -> int:
    """Run in the child. Returns its exit status; a failure says nothing, since it might quote what was read."""
    try:
        forbid_core_dumps()  # or no search is better than a leak
        device = everything.read(kind, name)
        wanted = needles(device, int(most), random.Random())
        found = []
        for pid, _, kinds in (one.partition(":") for one in asked):
            found += search(int(pid), kinds.split(","), wanted)
        count = sum(len(texts) for by_form in wanted.values() for texts in by_form.values())
        print(json.dumps({"peers": len(device.peers), "needles": count, "found": found}))
    except Exception:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
