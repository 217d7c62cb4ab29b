"""What commands ask of the running controller, and what they do when there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from jetplane.admin import client, edit
from jetplane.config import Config

NOT_RUNNING = "the controller is not running: this takes effect when it starts"


def ask_or(
    settings: Config, path: str, body: Mapping[str, Any], alone: Callable[[], dict[str, Any]], *, quiet: bool
) -> dict[str, Any]:
    """Ask the controller; where none listens, or not to this user, do the work on the files alone and say so."""
    edit.refuse_unless_files(settings)
    try:
        return {**client.ask(settings.run_directory, "POST", path, body), "running": True}
    except client.NotAllowed:
        return {**alone(), "running": True}  # it follows the files by itself
    except client.NotRunning:
        done = {**alone(), "running": False}
        if not quiet:
            click.echo(NOT_RUNNING, err=True)
        return done
