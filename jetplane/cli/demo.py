"""`jetplane demo`."""

from __future__ import annotations

import sys

import click

from jetplane.cli.options import json_option
from jetplane.lab import demo as demonstration


@click.command()
@json_option
def demo(*, as_json: bool) -> None:
    """Build a real node in namespaces on this machine, use it with real clients, and check what happened."""
    sys.exit(demonstration.run(as_json=as_json))
