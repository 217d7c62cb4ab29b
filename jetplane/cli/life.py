"""`jetplane check` and `jetplane down`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from jetplane import config, lifecycle, preflight
from jetplane.cli import show
from jetplane.cli.options import config_option, json_option, print_json


@click.command()
@config_option
@json_option
def check(*, config_path: Path, as_json: bool) -> None:
    """Pre-flight: is this machine, with this configuration, fit to be an exit node? Changes nothing."""
    checks = preflight.check(config.load(config_path))
    if as_json:
        print_json(show.checks_as_json(checks))
    else:
        show.checks(checks)
    if any(item.failed for item in checks):
        sys.exit(1)


@click.command()
@config_option
@json_option
def down(*, config_path: Path, as_json: bool) -> None:
    """Stop the node, and remove everything jetplane made and nothing else."""
    undone = lifecycle.down(config.load(config_path))
    if as_json:
        print_json({"undone": list(undone)})
    else:
        for line in undone:
            click.echo(line)
        click.echo("the node is down")
