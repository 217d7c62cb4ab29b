"""What a lab tells those who want to use it by hand or by program."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SubscriberState:
    """What a tester needs to know of a subscriber. The public key is empty without a tunnel."""

    ipv4: str
    ipv6: str
    interface: str
    public_key: str


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a tester needs to know of the node."""

    exit_ipv4: tuple[str, ...]
    exit_ipv6: tuple[str, ...]
    config: str
    metrics: str  # as seen inside the node's namespace
    wireguard: str
    pid: int


@dataclass(frozen=True, slots=True)
class LabState:
    """A lab as it is handed out, and as it stands in its lab.json."""

    namespaces: dict[str, str]
    subscribers: tuple[SubscriberState, ...]
    internet: dict[str, tuple[str, ...]]
    node: NodeState

    def as_json(self) -> dict[str, object]:
        """The object that `jetplane lab up --json` prints."""
        return dataclasses.asdict(self)
