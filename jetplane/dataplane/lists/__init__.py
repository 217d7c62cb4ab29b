"""Sources that the guard turns away: from files and registries to the maps of source_list.h."""

from __future__ import annotations

from jetplane.dataplane.lists.refresh import Refresher

__all__ = ["Refresher"]
