"""`python -m bench.fleet`: what a key costs a NATS server, the wire and a node. No root, only loopback.

Writes bench/results/fleet.json. jetplane/sources/SIZING.md does the arithmetic for a whole fleet with these figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import results
from jetplane.model import PublicKey
from tests.netns.nats_server import ControlPlane, Relay, Server

IDLE_S = 20.0
CHANGES = 500
_TICKS = os.sysconf("SC_CLK_TCK")


def _records(count: int) -> Iterator[tuple[PublicKey, dict[str, Any]]]:
    """Keys as random as real ones are; one address of each family and a preshared key."""
    secret = "A" * 43 + "="
    for n in range(2, count + 2):
        addresses = [f"10.{64 + (n >> 16)}.{n >> 8 & 255}.{n & 255}/32", f"fd64::{n >> 16:x}:{n & 65535:x}/128"]
        yield PublicKey(os.urandom(32)), {"allowed_ips": addresses, "preshared_key": secret}


def _cpu(pid: int) -> float:
    """Seconds that a process has used (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Node:
    """bench.fleet_node behind a relay that counts its bytes, in memory as `jetplane run` has it."""

    def __init__(self, relay: Relay, keys: int) -> None:
        command = [sys.executable, "-m", "bench.fleet_node", relay.url, str(keys)]
        environment = {**os.environ, "PYTHONMALLOC": "malloc"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def hear(self) -> dict[str, float]:
        """Its next line."""
        assert self._process.stdout
        figures: dict[str, float] = json.loads(self._process.stdout.readline())
        return figures

    def ask(self) -> dict[str, float]:
        """What it has used until now."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.hear()

    def end(self) -> None:
        """End it."""
        self._process.communicate()


def measure(keys: int, directory: Path) -> dict[str, float]:
    """Take every figure once. Bytes, seconds."""
    found: dict[str, float] = {}
    with (
        Server(directory / "nats") as server,
        ControlPlane(server.url, patience=1800.0) as plane,
        Relay(server) as relay,
    ):
        plane.make_buckets()
        empty, began = _resident(server.pid), time.monotonic()
        stored = _records(keys)
        sample = [next(stored) for _ in range(100)]
        found["value bytes"] = sum(len(json.dumps(record)) for _, record in sample) / len(sample)
        plane.put_all(sample)
        plane.put_all(stored)
        found["publish seconds per key"] = (time.monotonic() - began) / keys
        files = (file for file in (directory / "nats" / "store").rglob("*") if file.is_file())
        found["server disk bytes per key"] = sum(file.stat().st_size for file in files) / keys
        found["server memory bytes per key"] = (_resident(server.pid) - empty) / keys

        used = _cpu(server.pid)
        node = _Node(relay, keys)
        copy = node.hear()
        found["copy wire bytes per key"] = relay.passed / keys
        found["copy seconds per key"] = copy["seconds"] / keys
        found["copy node cpu per key"] = copy["cpu"] / keys
        found["copy server cpu per key"] = (_cpu(server.pid) - used) / keys
        found["node memory bytes per key"] = copy["resident"] / keys
        found["longest turn of the controller"] = copy["longest"]

        passed = relay.passed
        time.sleep(IDLE_S)
        found["idle wire bytes per second"] = (relay.passed - passed) / IDLE_S
        passed, used, before = relay.passed, _cpu(server.pid), node.ask()
        for key, record in sample * (CHANGES // len(sample)):
            plane.put(key, {**record, "persistent_keepalive": 25})
        time.sleep(1.0)
        found["change wire bytes"] = (relay.passed - passed) / CHANGES
        found["change node cpu"] = (node.ask()["cpu"] - before["cpu"]) / CHANGES

        passed, before = relay.passed, node.ask()
        relay.cut(on=True)
        relay.cut(on=False)
        while relay.passed - passed < found["copy wire bytes per key"] * keys * 0.95:
            time.sleep(0.2)
        time.sleep(2.0)
        found["comparison node cpu per key"] = (node.ask()["cpu"] - before["cpu"]) / keys
        node.end()
    return found


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(prog="bench.fleet", description="what a key costs server, wire and node")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=results.DIRECTORY)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jetplane-bench-") as directory:
        found = measure(options.keys, Path(directory))
    options.output.mkdir(parents=True, exist_ok=True)
    head = {**results.header(quick=False), "keys": options.keys}
    (options.output / "fleet.json").write_text(json.dumps({**head, "figures": found}, indent=2) + "\n")
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {value:,.1f}" if value >= 10 else f"{name:<{width}}  {value:.3g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
