"""`jetplane lab`: the demo's topology as a tool."""

from __future__ import annotations

from typing import get_args

import click

from jetplane.cli import show
from jetplane.cli.options import json_option, print_json
from jetplane.config import Filtering
from jetplane.lab import topology
from jetplane.lab.addresses import LabOptions


@click.group("lab")
def group() -> None:
    """A real node between real subscribers and a small internet, in namespaces of this machine."""


@group.command()
@json_option
@click.option("--peers", type=click.IntRange(0), default=0, help="Idle peers besides the two subscribers.")
@click.option("--nat-filtering", type=click.Choice(get_args(Filtering)), default="address", show_default=True)
@click.option("--exit-addresses", type=click.IntRange(1), default=1, show_default=True, help="Of each family.")
@click.option(
    "--tunnels", type=click.IntRange(1), default=1, show_default=True, help="WireGuard interfaces of the node."
)
@click.option(
    "--transport",
    type=click.Choice(("wireguard", "veth")),
    default="wireguard",
    show_default=True,
    help="veth: plain Ethernet for tunnels, to measure without cryptography; not a VPN.",
)
@click.option("--backend", type=click.Choice(("auto", "kernel", "userspace")), default="auto", show_default=True)
@click.option("--xdp", type=click.Choice(("auto", "native", "generic")), default="auto", show_default=True)
@click.option("--metrics-port", type=click.IntRange(1, 65535), default=9586, show_default=True)
@click.option("--up-mbit", type=click.IntRange(0), default=0, help="Rate of the subscribers' plan; 0: not limited.")
@click.option("--down-mbit", type=click.IntRange(0), default=0, help="The same towards the subscribers.")
def up(*, as_json: bool, **options: object) -> None:
    """Build the topology, start the node and leave it standing, for any client, tester or capture."""
    state = topology.up(LabOptions(**options))  # type: ignore[arg-type]
    if as_json:
        print_json(state.as_json())
    else:
        show.lab(state)


@group.command()
@json_option
@click.argument("name", required=False)
def down(*, as_json: bool, name: str | None) -> None:
    """Remove the lab of this NAME, or all that stand, and what killed runs left."""
    removed = topology.down(name)
    if as_json:
        print_json({"removed": removed})
    else:
        click.echo(f"removed: {', '.join(removed)}" if removed else "no lab stands")
