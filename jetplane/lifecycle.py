"""The life of a node as its operator commands it: run, and down."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

from jetplane import config as configuration
from jetplane import lock, preflight, status
from jetplane.admin import place
from jetplane.config import Config
from jetplane.controller import Controller
from jetplane.errors import JetplaneError, RequirementError
from jetplane.model import PublicKey
from jetplane.node import Node, take_down
from jetplane.preflight.inputs import PEER_RECORDS
from jetplane.privacy import process

STOP_S = 20.0


def run(path: Path) -> None:
    """Run the node of this configuration until it is told to stop. Nothing is changed before every check has passed."""
    config = configuration.load(path)
    failed = [item for item in preflight.check(config) if item.failed and item.name != PEER_RECORDS]
    if failed:
        raise RequirementError("; ".join(f"{item.name}: {item.detail}" for item in failed), hint=failed[0].hint)
    process.forbid_core_dumps()
    with contextlib.suppress(OSError):  # a container may forbid it; `check` says so
        process.forbid_swapping()
    config.run_directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    Controller(path, config).run()


def forget(config: Config, public_key: PublicKey) -> bool:
    """Cut a key off on a node whose controller does not run; whether the node had it. Raises JetplaneError."""
    if os.geteuid() != 0:
        raise RequirementError("forget: needs root", hint="run as root")
    if not (config.run_directory / status.FILE).exists():
        return False  # no node is up
    with lock.controller_lock(config.run_directory):
        node = Node(config)
        found = node.cut_off(public_key)
        node.dataplane.sweep()
        node.dataplane.close()
    return found


def down(config: Config) -> tuple[str, ...]:
    """Stop the controller, then undo everything that was made. Returns what was undone, in the operator's words."""
    if os.geteuid() != 0:
        raise RequirementError("down: needs root", hint="run as root")
    _stop_controller(config.run_directory)
    undone = take_down(config)
    shutil.rmtree(config.run_directory / "metrics", ignore_errors=True)
    for name in (status.FILE, lock.FILE, place.FILE):
        (config.run_directory / name).unlink(missing_ok=True)
    return undone


def _stop_controller(directory: Path) -> None:
    pid = lock.holder(directory)
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while lock.holder(directory) is not None:
        if time.monotonic() > deadline:
            raise JetplaneError(f"controller {pid}: does not stop", hint=f"end it with `kill -9 {pid}`, then try again")
        time.sleep(0.05)
