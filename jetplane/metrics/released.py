"""The figures of class D that were released last, as the release step leaves them and the exposition shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from jetplane.errors import JetplaneError
from jetplane.metrics.ledger import write_durably
from jetplane.metrics.noise import QUANTITIES

FILE = "released.json"


@dataclass(frozen=True, slots=True)
class Release:
    """One epoch, released: every figure with its noise, and nothing of what was before it."""

    start: int  # Unix seconds
    length: int  # seconds
    clips: Mapping[str, int]  # by quantity: what one peer could add, which the noise follows from
    figures: Mapping[str, int]  # by quantity; may be below zero

    @property
    def end(self) -> int:
        """Where the epoch ended, Unix seconds."""
        return self.start + self.length


def load(path: Path) -> dict[str, Release]:
    """The last release of each kind of epoch; none when there is no file. Raises JetplaneError."""
    try:
        tree = json.loads(path.read_text(encoding="ascii"))
        found = {str(name): Release(**entry) for name, entry in tree.items()}
        if all(
            r.figures.keys() <= QUANTITIES.keys() and set(map(type, r.figures.values())) <= {int}
            for r in found.values()
        ):
            return found
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise JetplaneError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError):
        pass
    raise JetplaneError(f"{path}: holds no released figures", hint="remove it: the next release writes it anew")


def save(path: Path, releases: Mapping[str, Release]) -> None:
    """Replace the file, mode 0600. Raises OSError."""
    write_durably(path, json.dumps({name: asdict(release) for name, release in releases.items()}).encode("ascii"))
