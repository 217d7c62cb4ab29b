"""Has a short-lived process count the peers that WireGuard remembers for too long."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

from jetplane.audit.limits import Limits
from jetplane.config import Config
from jetplane.journal import Journal
from jetplane.privacy.facts import Idle
from jetplane.wireguard.child import start

_DEADLINE_S = 120.0


def tunnels(config: Config) -> tuple[tuple[str, str], ...]:
    """(kind of WireGuard, name) of the tunnels that are there."""
    if config.transport == "veth":
        return ()
    names = {tunnel.name for tunnel in config.tunnel}
    return tuple(
        (kind, name) for name, kind in Journal(config.run_directory / "journal.json").tunnels() if name in names
    )


def gather(config: Config, limits: Limits) -> tuple[Idle, ...]:
    """Count, tunnel by tunnel; all at the same time, since one that finds something half-open waits."""
    running = [(name, _ask(kind, name, limits)) for kind, name in tunnels(config)]
    return tuple(_answers(running))


def _ask(kind: str, name: str, limits: Limits) -> subprocess.Popen[bytes]:
    times = (str(limits.stale_s), str(limits.half_open_s))
    return start("jetplane.wireguard.overdue", kind, name, *times, stdout=subprocess.PIPE)


def _answers(running: list[tuple[str, subprocess.Popen[bytes]]]) -> Iterator[Idle]:
    for name, child in running:
        with child:
            try:
                said, _ = child.communicate(timeout=_DEADLINE_S)
                yield Idle(name, **json.loads(said))
            except (subprocess.TimeoutExpired, ValueError, TypeError):
                child.kill()
                yield Idle(name, 0, 0, 0, trouble=f"{name}: its peers cannot be read")
