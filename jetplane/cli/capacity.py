"""`jetplane capacity`: when nodes and regions are full."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from jetplane import capacity as forecasting
from jetplane.cli import show
from jetplane.cli.options import json_option, print_json


@click.command()
@json_option
@click.option("--prometheus", "url", default="http://127.0.0.1:9090", show_default=True, help="Where Prometheus is.")
@click.option(
    "--days",
    type=click.IntRange(21, 180),
    default=forecasting.DAYS,
    show_default=True,
    help="How far back its figures are used.",
)
def capacity(*, as_json: bool, url: str, days: int) -> None:
    """Forecast when nodes and regions reach their capacity, by the figures that they have released.

    Reads Prometheus and nothing else: needs no root, no configuration and no node. Intervals are of 95 %; a straight
    line with a week's rhythm is what they assume.
    """
    outlook = forecasting.outlook(url, now=int(time.time()), days=days)
    if as_json:
        print_json(_as_json(outlook))
    else:
        show.outlook(outlook)


def _as_json(outlook: forecasting.Outlook) -> dict[str, object]:
    told = asdict(outlook)
    for place in told["places"]:
        for forecast in place["forecasts"]:
            earliest, full, latest = forecast.pop("days")
            forecast["full_in_days"] = {"earliest": earliest, "by_the_line": full, "latest": latest}
    told["left_out"] = [{"name": name, "why": why} for name, why in outlook.left_out]
    return told
