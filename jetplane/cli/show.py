"""Tables for people. What they show is decided elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jetplane import abi

if TYPE_CHECKING:
    from jetplane.capacity import Forecast, Outlook
    from jetplane.lab.state import LabState
    from jetplane.preflight import Check
    from jetplane.privacy.question import Check as Promise
    from jetplane.report import Report
    from jetplane.status import PrivacyStatus

OK, WARN, BAD = Text("✓", style="green"), Text("!", style="yellow"), Text("✗", style="bold red")

REFUSALS_SHOWN = 10  # `--json` has more

_console = Console(highlight=False)


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def checks(items: Sequence[Check]) -> None:
    """One row a check; what to do about it below what is wrong."""
    table = _table("", "check", "found")
    for item in items:
        mark = BAD if item.failed else WARN if item.ok == "warn" else OK
        hint = f"\n→ {item.hint}" if item.hint and item.ok is not True else ""
        table.add_row(mark, item.name, item.detail + hint)
    _console.print(table)


def checks_as_json(items: Sequence[Check]) -> dict[str, Any]:
    """The same for machines; `state` is ok, warning or failed."""
    state = {True: "ok", "warn": "warning", False: "failed"}
    rows = [{"name": i.name, "state": state[i.ok], "detail": i.detail, "hint": i.hint} for i in items]
    return {"ok": not any(item.failed for item in items), "checks": rows}


def audit(items: Sequence[Promise]) -> None:
    """One row a promise: what it says, what was looked at, what was found, and what to do about it."""
    table = _table("", "check", "promise and verdict")
    for item in items:
        text = Text(item.promise, style="bold")
        text.append(f"\n{item.detail}", style="" if item.ok else "bold red")
        text.append(f"\nlooked at {item.looked_at}", style="dim")
        if not item.ok:
            text.append(f"\n→ {item.hint}", style="not bold")
        table.add_row(OK if item.ok else BAD, item.name, text)
    _console.print(table)
    broken = sum(not item.ok for item in items)
    words = f" {broken} of {len(items)} promises are broken" if broken else f" all {len(items)} promises are kept"
    _console.print(Text.assemble(BAD if broken else OK, words))


def status(report: Report) -> None:
    """What is attached, wanted against observed, health, and the drops by reason."""
    label = {"kernel": "kernel WireGuard", "userspace": "userspace WireGuard", "veth": "no WireGuard: not a VPN"}
    state = report.status
    running = f"running, pid {state.pid}" if report.running else "not running; the data plane goes on without it"
    _console.print(Text.assemble(OK if report.healthy else BAD, f" jetplane {state.version}, controller {running}"))
    _console.print(f"  tunnels by {label[state.wireguard]}, generation {state.generation}")
    for problem in report.problems:
        _console.print(Text.assemble("  ", BAD, f" {problem}"))
    for refusal in state.refused_first[:REFUSALS_SHOWN]:
        _console.print(Text.assemble("  ", WARN, f" not applied: {refusal}"))
    if state.privacy:
        _console.print(Text.assemble("  ", OK if state.privacy.promised else WARN, f" {_privacy(state.privacy)}"))
    tunnels = _table("tunnel", "port", "peers wanted", "observed")
    for name in state.draining:
        _console.print(Text.assemble("  ", WARN, f" {name} takes no new handshakes: jetplane undrain ends that"))
    for tunnel in state.tunnels:
        tunnels.add_row(tunnel.name, str(tunnel.listen_port), str(tunnel.wanted), str(tunnel.observed))
    _console.print(tunnels)
    programs = _table("", "program", "interface", "hook", "mode")
    for a in report.attachments:
        mark = BAD if not a.present else WARN if a.mode == "generic" else OK  # generic: behind the driver, and slower
        programs.add_row(mark, a.program, a.interface, a.hook, a.mode)
    _console.print(programs)
    _console.print(_counters(report.counters))


def _privacy(told: PrivacyStatus) -> str:
    """What planning figures tell of one peer at most, and how far they have come."""
    until = (
        f"{name} until {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}Z" for name, at in told.released_until.items()
    )
    cost = f"epsilon {told.epsilon:g} at delta {told.delta:g} of a peer's UTC day"
    beyond = "" if told.promised else ", more than is promised: epochs are too short"
    return f"planning figures: {cost}{beyond}; released: {', '.join(until) or 'nothing yet'}"


def _counters(values: Mapping[str, int]) -> Table:
    """Only what has happened, drops first."""
    table = _table("drops and events", "count", "meaning")
    for name, meaning in (abi.drop_reasons() | abi.counters()).items():
        if values.get(name):
            table.add_row(name.lower(), f"{values[name]:,}", meaning)
    return table


def peers(rows: Sequence[Mapping[str, Any]]) -> None:
    """The operator's own list, as it stands in the operator's own files."""
    table = _table("public key", "allowed IPs", "tunnel", "until", "")
    table.columns[0].no_wrap = True  # to be copied
    for row in rows:
        marks = ["restricted"] * row["restricted"] + ["no statistics"] * (not row["statistics"])
        addresses = ", ".join(row["allowed_ips"])
        table.add_row(row["public_key"], addresses, row["tunnel"], row["expires_at"] or "", ", ".join(marks))
    _console.print(table)


def holdings(told: Mapping[str, Any]) -> None:
    """What a node holds about one key: one row a value, under the place that it is in."""
    words = "this node holds" if told["held"] else "this node holds nothing"
    _console.print(Text(f"{words} about {told['public_key']} at {told['made_at']}", style="bold"), soft_wrap=True)
    table = _table("place", "what", "value")
    for place in ("wanted", "wireguard", "data_plane"):
        for path, value in _leaves(told[place]):
            table.add_row(place.replace("_", " "), path.replace("_", " "), str(value))
    _console.print(table)
    for line in told["not_by_key"]:
        _console.print(f"cannot be told by key: {line}", soft_wrap=True)


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything in a tree that is not empty."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{path} {key}".strip())
    elif isinstance(tree, list):
        for number, value in enumerate(tree, start=1):
            yield from _leaves(value, f"{path} {number}")
    elif tree is not None:
        yield path, tree


def sessions(told: Mapping[str, Any]) -> None:
    """How many, on which tunnel, and whether it drains."""
    table = _table("tunnel", "sessions", "")
    for name, count in told["sessions"].items():
        state = "" if name not in told["draining"] else "drained" if count == 0 else "draining"
        table.add_row(name, "unknown" if count is None else f"{count:,}", state)
    _console.print(table)


def outlook(told: Outlook) -> None:
    """When which place is full, with the error bars of each figure."""
    table = _table("place", "what", "today", "capacity", "more each day", "full")
    for place in told.places:
        name = f"{place.name}, {place.nodes} nodes" if place.kind == "region" else place.name
        for item in place.forecasts:
            shown = _peers if item.unit == "peers" else _mbit
            table.add_row(
                name,
                _QUANTITIES[item.quantity],
                f"{shown(item.today)} ± {shown(item.today_error)}",
                "not known" if item.capacity is None else shown(item.capacity),
                f"{shown(item.a_day)} ± {shown(item.a_day_error)}",
                _until(item),
            )
    _console.print(table)
    for place in told.places:
        for item in place.forecasts:
            if item.clipped_peers:
                _console.print(
                    f"{place.name}, {_QUANTITIES[item.quantity]}: of some {item.clipped_peers:,.0f} peers a day not all"
                    " bytes are counted; it is more than is shown, and full earlier",
                    soft_wrap=True,
                )
    for name, why in told.left_out:
        _console.print(f"left out: {name}: {why}", soft_wrap=True)


_QUANTITIES = {
    "active_peers": "active peers, busiest hours",
    "up": "Mbit/s up, busiest hours",
    "down": "Mbit/s down, busiest hours",
}


def _peers(count: float) -> str:
    return f"{count:,.0f}" if abs(count) >= 100 else f"{count:,.1f}"


def _mbit(bytes_per_second: float) -> str:
    return _peers(bytes_per_second / 125_000)


def _until(item: Forecast) -> str:
    earliest, line, latest = item.days
    if item.capacity is None:
        return "set uplink.capacity_mbit"
    if earliest is None:
        return "not within a year"
    if line is None:
        return f"not within a year, in {earliest} days at the earliest"
    if latest == 0:
        return "now"
    return f"in {line} days ({earliest} to {'more than a year' if latest is None else latest})"


def lab(state: LabState) -> None:
    """What is needed to use a lab by hand."""
    node = state.node
    table = _table("", "namespace", "addresses")
    for number, subscriber in enumerate(state.subscribers, start=1):
        name = f"subscriber{number}"
        table.add_row(name, state.namespaces[name], f"{subscriber.ipv4} {subscriber.ipv6} on {subscriber.interface}")
    table.add_row("node", state.namespaces["node"], " ".join((*node.exit_ipv4, *node.exit_ipv6)))
    table.add_row(
        "internet", state.namespaces["internet"], " ".join((*state.internet["ipv4"], *state.internet["ipv6"]))
    )
    _console.print(table)
    _console.print(f"WireGuard: {node.wireguard}; controller pid {node.pid}; metrics {node.metrics} inside the node")
    _console.print(f"configuration: {node.config}", soft_wrap=True)
    namespace = state.namespaces["subscriber1"]
    _console.print(f"try: ip netns exec {namespace} ping {state.internet['ipv4'][0]}", soft_wrap=True)
