"""`jetplane peers`: the local source of peers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jetplane import config
from jetplane.admin import client, edit, rows
from jetplane.admin.messages import Change
from jetplane.cli import show
from jetplane.cli.ask import ask_or
from jetplane.cli.client import client_config
from jetplane.cli.importing import import_
from jetplane.cli.options import config_option, json_option, print_json
from jetplane.config import Config
from jetplane.errors import PeerError
from jetplane.model import PublicKey
from jetplane.privacy.process import forbid_core_dumps
from jetplane.sources import files, records


@click.group("peers")
def group() -> None:
    """Add, remove, change, list and forget peers. A running node follows at once."""


group.add_command(client_config)
group.add_command(import_)


@group.command()
@config_option
@json_option
@click.argument("public_key")
@click.option("--allowed-ip", "allowed_ips", multiple=True, required=True, help="Address of the peer; repeat for more.")
@click.option(
    "--preshared-key-file", type=click.Path(path_type=Path, dir_okay=False), help="File with a `wg genpsk` key."
)
@click.option("--persistent-keepalive", type=click.IntRange(0, 65535), default=0, help="Seconds; 0 is off.")
@click.option("--plan", help="Plan of the configuration; its default if not given.")
@click.option("--expires-at", help="When the peer ends, with its offset, like 2027-01-31T00:00:00Z.")
@click.option("--statistics/--no-statistics", default=True, help="Whether its traffic counts in released figures.")
@click.option("--restricted", is_flag=True, help="Keep the record, process no traffic.")
def add(
    *,
    config_path: Path,
    as_json: bool,
    public_key: str,
    allowed_ips: tuple[str, ...],
    preshared_key_file: Path | None,
    persistent_keepalive: int,
    plan: str | None,
    expires_at: str | None,
    statistics: bool,
    restricted: bool,
) -> None:
    """Add a peer."""
    settings = config.load(config_path)
    record = records.Record(
        public_key=public_key,
        allowed_ips=allowed_ips,
        preshared_key=_read_key(preshared_key_file) if preshared_key_file else None,
        persistent_keepalive=persistent_keepalive,
        plan=plan,
        expires_at=records.expiry(expires_at) if expires_at else None,
        statistics=statistics,
        restricted=restricted,
    )
    done = ask_or(
        settings,
        "/v1/peers/add",
        {"peers": [records.written(record)]},
        lambda: edit.add(settings, (record,)),
        quiet=as_json,
    )
    _say(as_json, done, f"added to {done['file']}")


@group.command()
@config_option
@json_option
@click.argument("public_keys", nargs=-1, required=True)
def remove(*, config_path: Path, as_json: bool, public_keys: tuple[str, ...]) -> None:
    """Remove peers; a running node cuts them off at once."""
    settings = config.load(config_path)
    body = {"public_keys": public_keys}
    done = ask_or(settings, "/v1/peers/remove", body, lambda: edit.remove(settings, public_keys), quiet=as_json)
    _say(as_json, done, f"removed from {', '.join(done['files'])}")


@group.command("set")
@config_option
@json_option
@click.argument("public_keys", nargs=-1, required=True)
@click.option("--restricted/--no-restricted", default=None, help="Keep the record, process no traffic; or lift that.")
@click.option("--statistics/--no-statistics", default=None, help="Whether its traffic counts in released figures.")
def set_(
    *,
    config_path: Path,
    as_json: bool,
    public_keys: tuple[str, ...],
    restricted: bool | None,
    statistics: bool | None,
) -> None:
    """Restrict peers, or keep them out of the figures, and lift it again; a running node follows at once.

    Their records stay as they are otherwise, and so do the comments of the files.
    """
    wanted = Change(public_keys, restricted, statistics)
    if not wanted.flags:
        raise click.UsageError("nothing to set: give --restricted, --statistics, or --no- of one of them")
    settings = config.load(config_path)
    body = {"public_keys": public_keys, **wanted.flags}
    done = ask_or(settings, "/v1/peers/set", body, lambda: edit.change(settings, wanted), quiet=as_json)
    _say(as_json, done, f"set in {', '.join(done['files'])}")


@group.command()
@config_option
@json_option
@click.argument("public_key")
def forget(*, config_path: Path, as_json: bool, public_key: str) -> None:
    """Cut a key off now and erase all that this node holds about it.

    Its session, endpoint, flows and tokens are gone within a second, and its record is taken out of the node's
    files. Where peers come from elsewhere, it is kept away until that source names it again, no longer has it, or
    the controller starts anew.
    """
    settings, key = config.load(config_path), PublicKey.parse(public_key)
    try:
        body = {"public_key": public_key}
        done = {**client.ask(settings.run_directory, "POST", "/v1/forget", body), "running": True}
    except client.NotRunning:
        done = _forget_alone(settings, key)
    meaning = {
        "removed": "forgotten; its record is gone from the files",
        "none": "forgotten; no file had a record of it",
        "held": "forgotten; kept away until its source says otherwise: remove it there, too",
        "elsewhere": "cut off; no controller runs to keep it away: remove it at its source",
    }
    _say(as_json, done, meaning[done["record"]])


@group.command()
@config_option
@json_option
@click.argument("public_key")
def report(*, config_path: Path, as_json: bool, public_key: str) -> None:
    """Show everything that this node holds about a key at this moment, for the one whose key it is.

    Needs root, in the node's network namespace. Nothing is stored. The JSON follows privacy/report.schema.json.
    """
    from jetplane.audit import report as reporting  # much that no other command needs

    forbid_core_dumps()
    told = reporting.report(config.load(config_path), PublicKey.parse(public_key))
    if as_json:
        print_json(told)
    else:
        show.holdings(told)


@group.command("list")
@config_option
@json_option
def list_(*, config_path: Path, as_json: bool) -> None:
    """List the peers in force and the restricted ones; with no controller running, those that stand in the files."""
    settings = config.load(config_path)
    edit.refuse_unless_files(settings)
    try:
        listed = client.ask(settings.run_directory, "GET", "/v1/peers")["peers"]
    except (client.NotRunning, client.NotAllowed):
        tunnels = records.wanted_by_tunnel(files.read(settings.peers.path), settings)
        listed = [rows.row(peer, name) for name, peers in tunnels.items() for peer in peers.values()]
    if as_json:
        print_json({"peers": listed})
    else:
        show.peers(listed)


def _forget_alone(settings: Config, key: PublicKey) -> dict[str, Any]:
    """The data plane goes on without its controller, and so may a peer: it is cut off by this process."""
    from jetplane import lifecycle  # a whole node

    found = lifecycle.forget(settings, key)
    if settings.peers.source != "files":
        return {"forgotten": found, "record": "elsewhere", "running": False}
    removed = edit.forget(settings, (key.text(),))["count"]
    if not found and not removed:
        raise PeerError("no peer with this public key", hint="`jetplane peers list` shows them")
    return {"forgotten": True, "record": "removed" if removed else "none", "running": False}


def _read_key(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise PeerError(f"{path}: cannot be read as a preshared key") from None


def _say(as_json: bool, done: dict[str, Any], words: str) -> None:
    if as_json:
        print_json(done)
    else:
        click.echo(words)
