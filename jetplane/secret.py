"""The secret by which a node chooses exit addresses: random, never written down, and another one every so often.

What is chosen is not chosen again while it is in use: a peer that the data plane holds keeps its exit addresses
(`plan.plan_entries`), and with them every flow. So a new secret is for peers that come, or come back.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

LIFETIME_S = 8 * 3600.0
"""Seconds; three times a day, so that coming back the next day tells no one who it is."""

SIZE = 32


class RotatingSecret:
    """`current` is the same for LIFETIME_S and then another. A process that starts begins with a fresh one."""

    def __init__(
        self,
        *,
        lifetime_s: float = LIFETIME_S,
        clock: Callable[[], float] = time.monotonic,
        make: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._lifetime_s, self._clock, self._make = lifetime_s, clock, make
        self._secret = make(SIZE)
        self._until = clock() + lifetime_s

    def current(self) -> bytes:
        """32 bytes."""
        if self._clock() >= self._until:
            self._secret = self._make(SIZE)
            self._until = self._clock() + self._lifetime_s
        return self._secret

    def __repr__(self) -> str:
        return "RotatingSecret(hidden)"
