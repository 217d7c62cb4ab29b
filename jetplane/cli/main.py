"""`jetplane`: the commands and how their errors are shown."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import click

from jetplane import __version__, config, lifecycle, preflight
from jetplane import report as reporting
from jetplane.admin import client
from jetplane.cli import lab, logs, maintenance, peers, show
from jetplane.cli.audit import audit
from jetplane.cli.capacity import capacity
from jetplane.cli.options import config_option, json_option, print_json
from jetplane.errors import JetplaneError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Exit nodes with kernel WireGuard, NAT in eBPF, and nothing kept about anybody."""


@cli.command()
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


@cli.command()
@config_option
def run(*, config_path: Path) -> None:
    """Run the node in the foreground. SIGHUP reloads, SIGTERM stops; traffic goes on either way."""
    lifecycle.run(config_path)


@cli.command()
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


@cli.command()
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


@cli.command()
@json_option
def demo(*, as_json: bool) -> None:
    """Build a real node in namespaces on this machine, use it with real clients, and check what happened."""
    from jetplane.lab import demo as demonstration  # the lab is no part of a node

    sys.exit(demonstration.run(as_json=as_json))


for command in (maintenance.reload, maintenance.drain, maintenance.undrain, maintenance.sessions):
    cli.add_command(command)
cli.add_command(audit)
cli.add_command(capacity)
cli.add_command(peers.group)
cli.add_command(lab.group)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Every error is one line on standard error; exit status 1, or 2 for a wrong command line."""
    logs.start()
    sys.excepthook = _say_where_not_what
    try:
        cli.main(args=arguments, prog_name="jetplane", standalone_mode=False)
    except JetplaneError as error:
        _fail(str(error), error.hint)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except PermissionError as error:
        _fail(f"{error.filename or 'this'}: permission denied", "run as root")


def _fail(message: str, hint: str) -> None:
    click.echo(f"jetplane: {message}" + (f" ({hint})" if hint else ""), err=True)
    sys.exit(1)


def _say_where_not_what(kind: type[BaseException], _: BaseException, where: TracebackType | None) -> None:
    """For errors nobody foresaw: the type and the place only, since a message could name a peer."""
    frames = traceback.extract_tb(where)
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-5:]))
    click.echo(f"jetplane: unforeseen {kind.__name__} at {places}; please report it", err=True)
