"""What every command shares: options, loading, output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

DEFAULT_CONFIG = Path("/etc/jetplane/jetplane.toml")

F = TypeVar("F", bound=Callable[..., Any])


def config_option(function: F) -> F:
    """`--config PATH`."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        default=DEFAULT_CONFIG,
        show_default=True,
        help="The node's configuration file.",
    )(function)


def json_option(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(function)


def print_json(value: object) -> None:
    """Print one JSON object on one line."""
    click.echo(json.dumps(value, sort_keys=True))
