"""`jetplane status`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from jetplane import config
from jetplane import report as reporting
from jetplane.admin import client
from jetplane.cli import show
from jetplane.cli.options import config_option, json_option, print_json


@click.command()
@config_option
@json_option
def status(*, config_path: Path, as_json: bool) -> None:
    """Show what is attached, wanted against observed, and health. Exit status 1 when something is wrong."""
    report = _report(config.load(config_path))
    if as_json:
        print_json(report.as_json())
    else:
        show.status(report)
    if not report.healthy:
        sys.exit(1)


def _report(settings: config.Config) -> reporting.Report:
    """What the controller says; where it says nothing, what it last wrote and what the kernel shows."""
    try:
        return reporting.from_json(client.ask(settings.run_directory, "GET", "/v1/status", seconds=client.QUICK_S))
    except (client.NotRunning, client.NotAllowed):
        return reporting.report(settings)
    except client.NotAnswering as error:
        return reporting.report(settings, trouble=str(error))
