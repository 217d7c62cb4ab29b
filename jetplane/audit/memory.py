"""Has short-lived processes search the memory of the node's processes for what only WireGuard may hold."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping

from jetplane.audit.limits import Limits
from jetplane.audit.sessions import tunnels
from jetplane.config import Config
from jetplane.privacy.facts import CONTROLLER, EXPORTER, Found, Memory
from jetplane.wireguard.child import start

_DEADLINE_S = 300.0
_SECRETS = {CONTROLLER: "endpoint,private", EXPORTER: "endpoint,private,preshared,public"}
"""Role → what it must not hold. Helpers end, and some of them are there to hold it; wireguard-go is WireGuard."""


def gather(found: Mapping[int, str], config: Config, limits: Limits) -> Memory:
    """Search. What was found is counted; the secrets themselves stay in the process that searched."""
    asked = [f"{pid}:{_SECRETS[role]}" for pid, role in sorted(found.items()) if role in _SECRETS]
    pids = frozenset(pid for pid, role in found.items() if role in _SECRETS)
    needles, peers, places, trouble = 0, 0, [], ""
    for kind, name in tunnels(config) if asked else ():
        arguments = (kind, name, str(limits.peers), *asked)
        with start("jetplane.wireguard.search", *arguments, stdout=subprocess.PIPE) as child:
            try:
                told = json.loads(child.communicate(timeout=_DEADLINE_S)[0])
            except (subprocess.TimeoutExpired, ValueError):
                child.kill()
                trouble = f"{name}: the search could not be made"
                continue
        needles, peers = needles + told["needles"], peers + told["peers"]
        places += [Found(*place) for place in told["found"]]
    return Memory(pids, needles, peers, tuple(places), trouble)
