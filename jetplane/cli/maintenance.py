"""Commands to a running node: reload, drain, undrain, sessions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from jetplane import config
from jetplane.admin import client
from jetplane.cli import progress, show
from jetplane.cli.options import config_option, json_option, print_json
from jetplane.config import Config

POLL_S = 1.0


@click.command()
@config_option
@json_option
def reload(*, config_path: Path, as_json: bool) -> None:
    """Take configuration and peers anew. What is wrong is refused with its reason, and the node stays as it was."""
    done = client.ask(config.load(config_path).run_directory, "POST", "/v1/reload")
    if as_json:
        print_json(done)
    else:
        click.echo(f"reloaded, generation {done['generation']}")


@click.command()
@config_option
@json_option
@click.argument("tunnels", nargs=-1)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until the last session has ended.")
def drain(*, config_path: Path, as_json: bool, tunnels: tuple[str, ...], wait: bool) -> None:
    """Take no new handshakes on TUNNELS, or on all, and tell when the last subscriber has gone.

    Sessions go on until they would be renewed, 180 s at most. It holds until `jetplane undrain` or `jetplane down`.
    """
    settings = config.load(config_path)
    told = client.ask(settings.run_directory, "POST", "/v1/drain", {"tunnels": tunnels})
    names = tunnels or tuple(told["draining"])
    if wait:
        told = _wait(settings, names, told, quiet=as_json)
    _show(as_json, {**told, "drained": _left(told, names) == 0})


@click.command()
@config_option
@json_option
@click.argument("tunnels", nargs=-1)
def undrain(*, config_path: Path, as_json: bool, tunnels: tuple[str, ...]) -> None:
    """Take handshakes again on TUNNELS, or on all."""
    _show(as_json, client.ask(config.load(config_path).run_directory, "POST", "/v1/undrain", {"tunnels": tunnels}))


@click.command()
@config_option
@json_option
def sessions(*, config_path: Path, as_json: bool) -> None:
    """How many subscribers are connected, tunnel by tunnel: numbers, nobody's name."""
    _show(as_json, client.ask(config.load(config_path).run_directory, "GET", "/v1/sessions"))


def _wait(settings: Config, names: tuple[str, ...], told: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    first = _left(told, names) or 0
    with progress.shown("sessions ended", total=first, quiet=quiet) as advance:
        while left := _left(told, names):
            advance(max(first - left, 0))
            time.sleep(POLL_S)
            told = client.ask(settings.run_directory, "GET", "/v1/sessions")
    return told


def _left(told: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Sessions on these tunnels; None when they cannot be counted, as without WireGuard."""
    counts = [told["sessions"].get(name) for name in names]
    return None if None in counts else sum(counts)


def _show(as_json: bool, told: Mapping[str, Any]) -> None:
    if as_json:
        print_json(told)
    else:
        show.sessions(told)
