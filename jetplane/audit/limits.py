"""How long an audit waits for others, and by which times it judges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    """Tests have no three minutes; everybody else takes these."""

    stale_s: float = 210.0  # a handshake this old is forgotten by now
    half_open_s: float = 30.0  # so is a half-open handshake; an audit that sees one waits so long
    peers: int = 16  # chosen by chance on each tunnel, whose secrets are searched for in memory
    scrape_s: float = 2.0  # each answer of an exporter
    log_bytes: int = 16 << 20  # the end of a log that is read


LIMITS: Final = Limits()
