"""Everything that this node holds about one key, place by place, at this moment. Made on demand, stored nowhere.

The schema of the answer is privacy/report.schema.json.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from typing import Any

import jetplane
from jetplane.audit.sessions import tunnels
from jetplane.config import Config
from jetplane.dataplane.node import DataPlane
from jetplane.errors import BackendError, RequirementError
from jetplane.model import InnerAddress, PublicKey
from jetplane.privacy.inventory import inventory
from jetplane.sources import files, records
from jetplane.wireguard.child import start

_DEADLINE_S = 60.0
_NOT_BY_KEY = (
    "sums over all peers (counters, aggregates, handshakes, metrics): nobody's share can be told",
    "handshake budgets and the filters of known sources: keyed hashes of address prefixes, kept for some minutes",
    "remotes of bindings: keyed hashes; the node itself cannot tell which sites they stand for",
    "sessions of relays: known by outer address alone; this node never sees the key of who is relayed",
)


def report(config: Config, key: PublicKey) -> dict[str, Any]:
    """Look at every place. Raises JetplaneError where that is not possible."""
    if os.geteuid() != 0:
        raise RequirementError("report: needs root", hint="run as root")
    wanted = _wanted(config, key)
    devices = {name: seen for kind, name in tunnels(config) if (seen := _device(kind, name, key)) is not None}
    known = (*([wanted["record"]] if wanted["record"] else ()), *devices.values())
    addresses = {InnerAddress.parse(text) for place in known for text in place["allowed_ips"]}
    dataplane = DataPlane(config)
    try:
        plane = dataplane.about(addresses)
    finally:
        dataplane.close()
    return {
        "jetplane": jetplane.__version__,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "public_key": key.text(),
        "held": bool(wanted["record"] or devices or plane),
        "wanted": wanted,
        "wireguard": devices,
        "data_plane": plane,
        "not_by_key": list(_NOT_BY_KEY),
        "holds_nothing": [place.name for place in inventory().places if place.may_hold == "nothing"],
    }


def _wanted(config: Config, key: PublicKey) -> dict[str, Any]:
    """The record as it stands in the node's own files, its preshared key left out."""
    if config.peers.source != "files":
        return {
            "source": config.peers.source,
            "record": None,
            "place": f"bucket {config.nats.bucket}; the controller's memory has a copy while it runs",
        }
    for placed in files.read(config.peers.path):
        if PublicKey.parse(placed.record.public_key) == key:
            record = records.written(placed.record)
            record["has_preshared_key"] = record.pop("preshared_key", None) is not None
            return {"source": "files", "record": record, "place": placed.place}
    return {"source": "files", "record": None, "place": str(config.peers.path)}


def _device(kind: str, name: str, key: PublicKey) -> dict[str, Any] | None:
    """What WireGuard knows, read by a process that ends."""
    with start("jetplane.wireguard.told", kind, name, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as child:
        try:
            said, _ = child.communicate(bytes(key), timeout=_DEADLINE_S)
            told: dict[str, Any] | None = json.loads(said)
        except (subprocess.TimeoutExpired, ValueError):
            child.kill()
            raise BackendError(
                f"{name}: its peers cannot be read", hint="is the tunnel there? jetplane status"
            ) from None
    return told
