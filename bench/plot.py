"""The rows as a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.results import Row

_RATES = ("Mpps", "% of fair share", "% of the plan")
"""Units, or how they begin, of which more is better."""


def plot(path: Path, rows: Sequence[Row], caption: str) -> None:
    """Draw the ratio of every row that has a rival and a rate: right of the line jetplane is faster."""
    plt = _pyplot()
    shown = [row for row in rows if row.ratio is not None and row.unit.startswith(_RATES)]
    rivals = sorted({row.rival for row in shown if row.rival})
    labels = list(dict.fromkeys(f"{row.bench}: {row.metric}" for row in shown))
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(labels) + 1.6), layout="constrained")
    height = 0.8 / max(1, len(rivals))
    for number, rival in enumerate(rivals):
        mine = [row for row in shown if row.rival == rival]
        axes.barh(
            [labels.index(f"{row.bench}: {row.metric}") + (number - (len(rivals) - 1) / 2) * height for row in mine],
            [row.ratio or 0.0 for row in mine],
            height=height,
            xerr=[row.spread / 2 for row in mine],
            label=f"beside {rival}",
            error_kw={"elinewidth": 0.8},
        )
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("jetplane's rate ÷ the rival's; whiskers: interquartile range of the rounds")
    axes.set_title(caption, fontsize=8)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def plot_attacks(path: Path, rows: Sequence[Row], caption: str) -> None:
    """Draw what a blocklist costs by its length, how long clients need to connect, and what is left of a download."""
    plt = _pyplot()
    figure, (cost, connect, left) = plt.subplots(3, 1, figsize=(9, 10), layout="constrained")
    for version in (4, 6):
        for rival, style in ((False, "o-"), (True, "o:")):
            points = [
                (int(found[1].replace(",", "")), (row.rival_value if rival else row.jetplane) or 0.0)
                for row in rows
                if row.unit == "ns/packet" and (found := re.match(rf"IPv{version}, ([0-9,]+) prefixes$", row.metric))
            ]
            who = "dropped unseen" if rival else "jetplane"
            cost.plot([x for x, _ in points], [y for _, y in points], style, label=f"IPv{version}, {who}")
    cost.set_xscale("symlog", linthresh=1000)
    cost.set_ylim(bottom=0)
    cost.set_xlabel("prefixes on the blocklist")
    cost.set_ylabel("ns a packet, source included")
    cost.set_title(caption, fontsize=8)
    cost.legend(fontsize=8)
    _pairs(
        connect, [row for row in rows if row.unit == "s" and row.rival], "seconds to connect under a handshake flood"
    )
    _pairs(left, [row for row in rows if row.unit.startswith("%")], "% of undisturbed goodput that is left")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _pairs(axes: Any, rows: Sequence[Row], label: str) -> None:
    """Two bars for each row: jetplane and its rival."""
    for offset, name, values in (
        (-0.2, "jetplane", [row.jetplane for row in rows]),
        (0.2, ", ".join(sorted({row.rival for row in rows if row.rival})), [row.rival_value or 0.0 for row in rows]),
    ):
        axes.barh([number + offset for number in range(len(rows))], values, height=0.4, label=name)
    axes.set_yticks(range(len(rows)), [row.metric for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.legend(fontsize=8)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "jetplane"  # the same rows give the same file
    from matplotlib import pyplot as plt

    return plt
