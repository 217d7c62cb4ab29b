"""The one form of every bench's results: rows of medians and ratios, below a header that says where they come from."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jetplane.errors import JetplaneError

DIRECTORY = Path(__file__).with_name("results")


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `ratio` is jetplane to rival, the median over rounds; `spread` its interquartile range.

    Each round gives a ratio of its own, of two measurements made one after the other: what the machine does
    besides cancels out of it, while `jetplane` and `rival_value` (medians too) carry it. Without a rival the last
    four are None, and `spread` is that of the value.
    """

    bench: str
    metric: str
    unit: str
    jetplane: float
    rival: str | None
    rival_value: float | None
    ratio: float | None
    spread: float
    rounds: int


def compared(
    bench: str, metric: str, unit: str, jetplane: Sequence[float], rival: str, rival_values: Sequence[float]
) -> Row:
    """A row from the values of each round, in the same order for both."""
    ratios = [own / other for own, other in zip(jetplane, rival_values, strict=True)]
    return Row(
        bench, metric, unit,
        _rounded(statistics.median(jetplane)), rival, _rounded(statistics.median(rival_values)),
        round(statistics.median(ratios), 3), round(_spread(ratios), 3), len(ratios),
    )  # fmt: skip


def alone(bench: str, metric: str, unit: str, values: Sequence[float]) -> Row:
    """A row about jetplane only."""
    median, spread = _rounded(statistics.median(values)), _rounded(_spread(values))
    return Row(bench, metric, unit, median, None, None, None, spread, len(values))


def header(*, quick: bool) -> dict[str, object]:
    """Where and when: figures mean nothing without it."""
    return {
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "bpf_jit": _first_line("/proc/sys/net/core/bpf_jit_enable") == "1",
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_before": round(os.getloadavg()[0], 2),
        "quick": quick,
        "notes": [],
    }


def write(directory: Path, head: dict[str, object], rows: Sequence[Row], *, name: str = "latest") -> None:
    """Write latest.json and latest.md, or what `name` says in their place."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {"header": head, "rows": [dataclasses.asdict(row) for row in rows]}
    (directory / f"{name}.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (directory / f"{name}.md").write_text(markdown(head, rows), encoding="utf-8")


def merge(
    directory: Path, head: dict[str, object], rows: Sequence[Row], *, name: str = "latest"
) -> tuple[dict[str, object], list[Row]]:
    """Put the rows of some benches in the place of those that were there; all others stay. Returns the whole.

    Rows of one bench are always of one run, and the header says of which ("apart"). Raises JetplaneError when there
    are no results, or when they are of another machine: then the whole must be measured anew.
    """
    path = directory / f"{name}.json"
    try:
        content = json.loads(path.read_bytes())
        before, there = dict(content["header"]), [Row(**row) for row in content["rows"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise JetplaneError(f"bench: {path}: no results to put rows into", hint="run the whole bench first") from None
    if any(before.get(key) != head[key] for key in ("machine", "cpu", "cpus")):
        raise JetplaneError(f"bench: {path}: results of another machine", hint="run the whole bench")
    fresh = dict.fromkeys(row.bench for row in rows)
    said = {key: head[key] for key in _OF_A_RUN}
    before["apart"] = before.get("apart", {}) | dict.fromkeys(fresh, said)
    whole = [row for row in there if row.bench not in fresh] + [*rows]
    write(directory, before, whole, name=name)
    return before, whole


_OF_A_RUN = ("kernel", "commit", "date", "load_before")


def markdown(head: dict[str, object], rows: Sequence[Row]) -> str:
    """The rows as a table, with the header above it in words."""
    jit = "on" if head["bpf_jit"] else "off"
    lines = [
        f"{head['cpu']}, {head['cpus']} CPUs, Linux {head['kernel']}, BPF JIT {jit}, commit {head['commit']},",
        f"{head['date']}, load before the run {head['load_before']}.",
        *([""] + [f"- {note}" for note in notes] if (notes := _notes(head)) else []),
        "",
        "| bench | metric | unit | jetplane | rival | its value | ratio | spread | rounds |",
        "| --- | --- | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        rival_value = "" if row.rival_value is None else f"{row.rival_value:g}"
        ratio = "" if row.ratio is None else f"**{row.ratio:.2f}**"
        spread = f"{row.spread:.2f}" if row.ratio is not None else f"{row.spread:g}"
        lines.append(
            f"| {row.bench} | {row.metric} | {row.unit} | {row.jetplane:g} | {row.rival or ''} | {rival_value}"
            f" | {ratio} | {spread} | {row.rounds} |"
        )
    return "\n".join(lines) + "\n"


def _notes(head: dict[str, object]) -> list[str]:
    notes, apart = head["notes"], head.get("apart", {})
    assert isinstance(notes, list)
    assert isinstance(apart, dict)
    return [
        *map(str, notes),
        *(
            f"{bench}: measured apart, Linux {said['kernel']}, commit {said['commit']}, {said['date']}, load before "
            f"the run {said['load_before']}."
            for bench, said in apart.items()
        ),
    ]


def _spread(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _commit() -> str:
    """The commit, with a + when the tree differs from it; empty outside a repository."""
    command = ["git", "-c", "safe.directory=*", "describe", "--always", "--dirty=+"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, timeout=30, check=False)
    except OSError:
        return ""
    return done.stdout.decode().strip()


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").partition("\n")[0]
    except OSError:
        return ""
