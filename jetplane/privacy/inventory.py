"""Reads inventory.toml: where on a node anything of a peer may be, and how that is kept and checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("inventory.toml")

ABOUT = frozenset({"node", "sum", "hash", "peer", "secret"})
"""What a map can be about: nothing of a peer, all peers together, single remotes or prefixes by keyed hashes, single
peers, or the key of those hashes."""


@dataclass(frozen=True, slots=True)
class Place:
    """One row of the inventory."""

    name: str
    may_hold: str
    must_not_hold: str
    kept_by: str
    checks: tuple[str, ...]  # names of privacy.checks
    tests: tuple[str, ...]  # file::test


@dataclass(frozen=True, slots=True)
class Holding:
    """What one BPF map holds, as far as a peer is concerned."""

    about: str  # one of ABOUT
    until: str  # when that ends


@dataclass(frozen=True, slots=True)
class Inventory:
    """The whole file."""

    places: tuple[Place, ...]
    maps: dict[str, Holding]
    programs: dict[str, str]  # name → what it learns of a peer


@cache
def inventory() -> Inventory:
    """Read it. It is part of the package: what is wrong with it is a fault of the package, and raises."""
    tree = tomllib.loads(FILE.read_text(encoding="utf-8"))
    places = (Place(**{**row, "checks": tuple(row["checks"]), "tests": tuple(row["tests"])}) for row in tree["place"])
    maps = {name: Holding(**holding) for name, holding in tree["maps"].items()}
    return Inventory(tuple(places), maps, dict(tree["programs"]))
