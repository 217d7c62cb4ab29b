"""Are the promises of the privacy policy kept on this node, now? Looks, and changes nothing.

What is promised and how it is judged stands in `jetplane.privacy`; here is only where the facts come from.
"""

from __future__ import annotations

import os

from jetplane.audit.gather import gather
from jetplane.audit.limits import LIMITS, Limits
from jetplane.config import Config
from jetplane.errors import RequirementError
from jetplane.privacy.checks import judge
from jetplane.privacy.question import Check

__all__ = ["LIMITS", "Check", "Limits", "audit"]


def audit(config: Config, limits: Limits = LIMITS) -> tuple[Check, ...]:
    """Audit the node of this configuration, in its network namespace and as root.

    Raises JetplaneError when that cannot be done at all: no root, no data plane.
    """
    if os.geteuid() != 0:
        raise RequirementError("audit: needs root", hint="run as root")
    return judge(gather(config, limits))
