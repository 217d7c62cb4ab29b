"""Which epochs are open, kept in the run directory so that a restart of the controller in the middle loses none.

What is kept is only believed as long as it is about the same maps, of the same boot, by the same public terms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from jetplane.errors import JetplaneError
from jetplane.metrics.epochs import Clocks, Opening
from jetplane.metrics.ledger import write_durably
from jetplane.metrics.noise import EpochName

FILE = "epochs.json"


@dataclass(frozen=True, slots=True)
class Terms:
    """What an opening is about: the boot, the maps in it, and what one peer may add to each sum."""

    boot: str
    maps: tuple[int, ...]  # the kernel's ids
    clips: Mapping[str, int]


def boot() -> str:
    """The kernel's name for this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def load(path: Path, terms: Terms) -> dict[EpochName, Opening]:
    """The open epochs by kind; none when there is no such file, or when it is about something else."""
    try:
        tree = json.loads(path.read_text(encoding="ascii"))
        if Terms(tree["boot"], tuple(tree["maps"]), tree["clips"]) != terms:
            return {}
        return {
            name: Opening(int(o["number"]), int(o["start"]), int(o["length"]), Clocks(**o["at"]))
            for name, o in tree["openings"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save(path: Path, terms: Terms, openings: Mapping[EpochName, Opening]) -> None:
    """Replace the file. Raises JetplaneError."""
    tree = {**asdict(terms), "openings": {name: asdict(opening) for name, opening in openings.items()}}
    try:
        write_durably(path, json.dumps(tree).encode("ascii"))
    except OSError as error:
        raise JetplaneError(f"{path}: cannot be written: {error.strerror}") from None
