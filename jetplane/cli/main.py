"""`jetplane`: the commands and how their errors are shown."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import click

from jetplane import __version__
from jetplane.cli import logs
from jetplane.errors import JetplaneError

COMMANDS = {
    "audit": "audit:audit",
    "capacity": "capacity:capacity",
    "check": "life:check",
    "demo": "demo:demo",
    "down": "life:down",
    "drain": "maintenance:drain",
    "lab": "lab:group",
    "peers": "peers:group",
    "reload": "maintenance:reload",
    "run": "run:run",
    "sessions": "maintenance:sessions",
    "status": "status:status",
    "undrain": "maintenance:undrain",
}
"""Command → where it is, below jetplane.cli."""


class Commands(click.Group):
    """Imports a command when it is asked for: `peers add` does not wait for what only `run` needs."""

    def list_commands(self, _: click.Context) -> list[str]:
        """In the order of the alphabet."""
        return sorted(COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(f"jetplane.cli.{module}"), name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Exit nodes with kernel WireGuard, NAT in eBPF, and nothing kept about anybody."""


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
