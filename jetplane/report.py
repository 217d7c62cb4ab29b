"""The state of a node as its operator wants to see it: what the controller says, and what the kernel shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from jetplane import lock, status
from jetplane.config import Config
from jetplane.dataplane.programs import Attachment

if TYPE_CHECKING:
    from jetplane.dataplane.node import DataPlane


@dataclass(frozen=True, slots=True)
class Report:
    """What `jetplane status` shows."""

    status: status.Status
    running: bool
    attachments: tuple[Attachment, ...]
    counters: Mapping[str, int]

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is not as it should be, one line each."""
        missing = tuple(
            f"{a.program} is not attached to {a.interface} ({a.hook})" for a in self.attachments if not a.present
        )
        stopped = () if self.running else ("the controller is not running: changes wait until it does",)
        return stopped + missing + self.status.problems

    @property
    def healthy(self) -> bool:
        """Running, ready, complete."""
        return self.status.ready and not self.problems

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            **msgspec.to_builtins(self.status),
            "running": self.running,
            "healthy": self.healthy,
            "problems": list(self.problems),
            "programs": [asdict(a) for a in self.attachments],
            "counters": dict(self.counters),
        }


def report(config: Config, *, trouble: str = "") -> Report:
    """Look at the node of this configuration; `trouble` is a problem of the one who asks.

    Raises JetplaneError when there is none.
    """
    from jetplane.dataplane.node import DataPlane  # whoever is told by the controller does not need it

    state = status.read(config.run_directory)
    if trouble:
        state = msgspec.structs.replace(state, problems=(trouble, *state.problems))
    dataplane = DataPlane(config)
    try:
        return of(state, running=lock.holder(config.run_directory) is not None, dataplane=dataplane)
    finally:
        dataplane.close()


def from_json(told: Mapping[str, Any]) -> Report:
    """The report that `as_json` was made of."""
    report = Report(
        status=msgspec.convert({**told, "problems": ()}, status.Status),
        running=told["running"],
        attachments=tuple(Attachment(**one) for one in told["programs"]),
        counters=told["counters"],
    )
    own = tuple(problem for problem in told["problems"] if problem not in report.problems)
    return replace(report, status=msgspec.structs.replace(report.status, problems=own))


def of(state: status.Status, *, running: bool, dataplane: DataPlane) -> Report:
    """The report that belongs to what a controller says of itself."""
    return Report(status=state, running=running, attachments=dataplane.attachments(), counters=dataplane.counters())
