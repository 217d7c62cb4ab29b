"""Is this machine, with this configuration, fit to be an exit node? Looks, and changes nothing."""

from __future__ import annotations

from jetplane.config import Config
from jetplane.preflight import inputs, links, machine, relays
from jetplane.preflight.facts import Check, Facts
from jetplane.preflight.gather import gather

__all__ = ["Check", "check", "judge"]


def check(config: Config) -> tuple[Check, ...]:
    """Look at this machine, in this network namespace, and judge it. One row a question, whatever is wrong."""
    return judge(config, gather(config))


def judge(config: Config, facts: Facts) -> tuple[Check, ...]:
    """Pure: the rows of the table, in the order in which they help. One cause fails one row, not all that follow."""
    return tuple(
        row
        for judgement in (*machine.CHECKS, *links.CHECKS, *relays.CHECKS, *inputs.CHECKS)
        for row in judgement(config, facts)
    )
