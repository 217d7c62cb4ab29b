"""`jetplane run`."""

from __future__ import annotations

from pathlib import Path

import click

from jetplane.cli.options import config_option
from jetplane.privacy.process import erase_what_is_freed


@click.command()
@config_option
def run(*, config_path: Path) -> None:
    """Run the node in the foreground. SIGHUP reloads, SIGTERM stops; traffic goes on either way."""
    erase_what_is_freed("jetplane", "run", "--config", str(config_path))

    from jetplane import lifecycle  # a whole node, only now: the process has just begun anew

    lifecycle.run(config_path)
