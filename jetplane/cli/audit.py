"""`jetplane audit`: is what is promised kept?"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from jetplane import audit as auditing
from jetplane import config
from jetplane.cli import show
from jetplane.cli.options import config_option, json_option, print_json
from jetplane.privacy.process import forbid_core_dumps


@click.command()
@config_option
@json_option
def audit(*, config_path: Path, as_json: bool) -> None:
    """Check every privacy promise on this live node. Changes nothing; exit status 1 when one is broken.

    Run it as root, in the node's network namespace. It names places and counts, never a key or an address.
    """
    forbid_core_dumps()
    checks = auditing.audit(config.load(config_path))
    ok = all(check.ok for check in checks)
    if as_json:
        print_json({"ok": ok, "checks": [asdict(check) for check in checks]})
    else:
        show.audit(checks)
    if not ok:
        sys.exit(1)
