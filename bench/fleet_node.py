"""One node's source of peers, measured from inside: `python -m bench.fleet_node SERVER KEYS`, run by bench.fleet.

Prints one JSON line when it has its first copy, then one for every line it reads: the counts so far.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path

from jetplane import config
from jetplane.model import Peer, PublicKey
from jetplane.sources import nats as nats  # loaded before anything is measured
from jetplane.sources import open_source


def _resident() -> int:
    """Bytes of this process that are in memory (proc(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(server: str, keys: int) -> None:
    """Follow the bucket until standard input ends."""
    tree = {
        "uplink": {"interface": "eth0"},
        "exit": {"ipv4": ["203.0.113.10"]},
        "tunnel": [
            {"name": "jet0", "listen_port": 1, "private_key_file": "k", "addresses": ["10.64.0.1/10", "fd64::1/64"]}
        ],
        "peers": {"source": "nats", "max": 1_000_000},
        "nats": {"servers": [server], "bucket": "peers-lab", "node": "bench", "resync_spread": 0},
    }
    before = _resident()
    source = open_source(config.parse(tree, Path("/nowhere/jetplane.toml")))
    peers: dict[PublicKey, Peer | None] = {}
    began, cpu, longest = time.monotonic(), time.process_time(), 0.0

    def take() -> None:
        nonlocal longest
        at = time.monotonic()
        if change := source.take():
            peers.update(change.peers)
            source.applied(change.revision)
        longest = max(longest, time.monotonic() - at)

    def say() -> None:
        figures = {
            "seconds": time.monotonic() - began,
            "cpu": time.process_time() - cpu,
            "longest": longest,
            "resident": _resident() - before,
            "peers": len(peers),
        }
        print(json.dumps(figures), flush=True)

    with source:
        while len(peers) < keys:
            select.select([source], [], [])
            take()
        say()
        while True:
            ready, _, _ = select.select([source, sys.stdin], [], [])
            if source in ready:
                take()
            if sys.stdin in ready:
                if not sys.stdin.readline():
                    return
                say()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
