"""Starts nodes of a fleet: `python -m tests.netns.fleet_nursery DIRECTORY SERVER` forks one for every line it reads.

Each node is a process: the real source, roster and plans, on a kernel that is a log (fleet_kernel). Forking costs a
hundredth of starting, so that a test can kill them by the dozen.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import selectors
import signal
import sys
from pathlib import Path
from typing import NoReturn

from jetplane import backoff, config
from jetplane.alarm import Alarm
from jetplane.config import Config
from jetplane.following import Following
from jetplane.health import Health
from jetplane.node import Node
from jetplane.schedule import Schedule
from jetplane.sources import nats as nats  # loaded once, here
from jetplane.sources import open_source
from tests.netns.fleet_kernel import Log, Maps, Tunnels
from tests.netns.nats_server import BUCKET


def node_config(directory: Path, server: str, name: str) -> Config:
    """A node whose only tunnel is the loopback interface, which is there: nobody touches it."""
    tree = {
        "uplink": {"interface": "eth0"},
        "exit": {"ipv4": ["203.0.113.10", "203.0.113.11"]},
        "tunnel": [{"name": "lo", "listen_port": 1, "private_key_file": "k", "addresses": ["10.64.0.1/10"]}],
        "peers": {"source": "nats"},
        "nats": {"servers": [server], "bucket": BUCKET, "node": name, "resync_spread": 1},
        "transport": "veth",
        "run_directory": str(directory),
    }
    return config.parse(tree, directory / "jetplane.toml")


def run(settings: Config, log: Log) -> NoReturn:
    """A controller, less links and programs."""
    for _ in log.read():
        pass
    health, schedule, node = Health(), Schedule(), Node(settings)
    node.wireguard, node.dataplane = Tunnels(log), Maps(log)  # type: ignore[assignment]

    def verify() -> None:
        node.observe()
        following.reconcile()

    def retry() -> None:
        schedule.once(backoff.delay(1, random.random()), "verify", verify)

    with selectors.DefaultSelector() as selector, Alarm() as alarm, open_source(settings) as source:
        following = Following(
            node, source, alarm, health, frozenset(), changed=lambda: None, removed=lambda: None, retry=retry
        )
        verify()
        selector.register(source, selectors.EVENT_READ, following.take)
        selector.register(alarm, selectors.EVENT_READ, following.ring)
        while True:
            for key, _ in selector.select(schedule.run()):
                key.data()


def main(directory: Path, server: str) -> None:
    """Fork on request; end everything when nobody asks any more."""
    logging.disable()  # outages are what these nodes are for
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    children = []
    for line in sys.stdin:
        name = line.strip()
        if pid := os.fork():
            children.append(pid)
            print(pid, flush=True)
            continue
        sys.stdin.close()
        run(node_config(directory, server, name), Log(directory / f"{name}.log"))
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
