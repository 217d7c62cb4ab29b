"""How long to wait before trying again."""

from __future__ import annotations

FIRST_S = 1.0
LONGEST_S = 60.0


def delay(failures: int, chance: float) -> float:
    """Seconds to wait after `failures` failures in a row (≥ 1).

    Doubles up to a minute; `chance` in [0, 1) takes away up to a quarter, so that a fleet does not retry in step.
    """
    full: float = min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 16))
    return full * (1 - chance / 4)
