"""`jetplane peers import`: peers of a wg-quick(8) server into the node's own files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from jetplane import config
from jetplane.admin import edit
from jetplane.cli.options import config_option, json_option, print_json
from jetplane.cli.progress import track
from jetplane.config import Config
from jetplane.errors import PeerError
from jetplane.sources import wg_quick
from jetplane.sources.admission import Admission
from jetplane.sources.records import Placed


@click.command("import")
@config_option
@json_option
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE...")
@click.option("--plan", help="Plan of the configuration for these peers; its default if not given.")
@click.option("--dry-run", is_flag=True, help="Say what would be imported, and change nothing.")
def import_(*, config_path: Path, as_json: bool, sources: tuple[Path, ...], plan: str | None, dry_run: bool) -> None:
    """Import the peers of wg-quick configurations, like /etc/wireguard/wg0.conf.

    Keys, allowed IPs, preshared keys and keepalives are taken; comments and endpoints are not. A peer that cannot be
    used is named by its line and left out, the others are imported together. Exit status 1 when any was left out.
    """
    settings = config.load(config_path)
    edit.refuse_unless_files(settings)
    read = [item for source in sources for item in _read(source, plan)]
    admission = Admission(settings)
    for item in track(read, "checking", len(read), quiet=as_json):
        if isinstance(item, Placed):
            admission.offer(item)
        else:
            admission.refuse(item)
    done = _take(settings, admission, dry_run=dry_run)
    if as_json:
        print_json({"file": done, "imported": len(admission.taken), "refused": admission.refused, "dry_run": dry_run})
    else:
        for line in admission.refused:
            click.echo(f"left out: {line}", err=True)
        count = len(admission.taken)
        click.echo(
            f"{count} peers would be imported" if dry_run else f"{count} peers imported" + f" into {done}" * bool(done)
        )
    if admission.refused:
        sys.exit(1)


def _read(source: Path, plan: str | None) -> Iterator[Placed | str]:
    """Each peer as a record, or why it is none. A file that is no such configuration is refused as a whole."""
    try:
        text = source.read_text(encoding="utf-8")
        sections = tuple(wg_quick.sections(text))
    except OSError as error:
        raise PeerError(f"{source}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PeerError(f"{source}: is not UTF-8 text") from None
    except PeerError as error:
        raise PeerError(f"{source}: {error}; nothing is imported", hint=error.hint) from None
    for section in sections:
        try:
            yield Placed(wg_quick.to_record(section, plan=plan), f"{source}: line {section.line}")
        except PeerError as error:
            yield f"{source}: {error}"


def _take(settings: Config, admission: Admission, *, dry_run: bool) -> str | None:
    """Write what was taken, all of it at once; return the file."""
    if dry_run or not admission.taken:
        return None
    return str(edit.add(settings, tuple(admission.taken))["file"])
