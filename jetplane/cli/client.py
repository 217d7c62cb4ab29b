"""`jetplane peers client-config`: the subscriber's side of a tunnel, as text and as a QR code."""

from __future__ import annotations

import io
import os
from pathlib import Path

import click

from jetplane import client, config
from jetplane.cli.options import config_option, json_option, print_json
from jetplane.client import ClientConfig
from jetplane.config import Config, Tunnel
from jetplane.endpoint import Endpoint
from jetplane.errors import ConfigurationError, PeerError
from jetplane.model import Peer, PublicKey
from jetplane.sources import files, records

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("client-config")
@config_option
@json_option
@click.argument("key", metavar="PUBLIC_KEY")
@click.option("--private-key-file", type=_FILE, help="The subscriber's private key; without it a line to fill in.")
@click.option("--endpoint", help="Host or host:port that the subscriber dials; default: client.endpoint.")
@click.option("--entry", help="Go through this entry node: a name of client.entries, or host:port.")
@click.option(
    "--dns",
    multiple=True,
    help="Resolver inside the tunnel; repeat for more; default: client.dns, else the DNS service.",
)
@click.option("--mtu", type=click.IntRange(1280, 65535), help="Bytes; default: the tunnel's.")
@click.option("--persistent-keepalive", type=click.IntRange(0, 65535), default=0, help="Seconds; 0 is off.")
@click.option("--qr", is_flag=True, help="Draw a QR code in the terminal instead of text.")
@click.option("--qr-file", type=_FILE, help="Write the QR code to a .svg or .png file, mode 0600.")
def client_config(
    *,
    config_path: Path,
    as_json: bool,
    key: str,
    private_key_file: Path | None,
    endpoint: str | None,
    entry: str | None,
    dns: tuple[str, ...],
    mtu: int | None,
    persistent_keepalive: int,
    qr: bool,
    qr_file: Path | None,
) -> None:
    """Print the wg-quick file of a peer, or its QR code for the WireGuard apps."""
    from jetplane.wireguard.public import public_key  # libsodium is no part of a node

    if (qr or qr_file) and private_key_file is None:
        raise PeerError("a QR code without the private key is of no use", hint="give --private-key-file")
    if qr_file and qr_file.suffix not in (".svg", ".png"):
        raise PeerError(f"{qr_file}: its name must end in .svg or .png")
    settings = config.load(config_path)
    tunnel, peer = _find(settings, PublicKey.parse(key))
    text = client.render(
        ClientConfig(
            private_key=_private_key(private_key_file, peer) if private_key_file else "",
            addresses=tuple(address.text() for address in peer.allowed_ips),
            dns=dns or settings.client.dns or config.resolvers_of(tunnel, settings),
            mtu=mtu or tunnel.mtu,
            node_public_key=public_key(tunnel.private_key_file).text(),
            preshared_key=peer.preshared_key.text() if peer.preshared_key else None,
            endpoint=_endpoint(settings, tunnel, endpoint, entry),
            persistent_keepalive=persistent_keepalive,
        )
    )
    if qr_file:
        _save(text, qr_file)
    if as_json:
        print_json({"config": text, "qr_file": str(qr_file) if qr_file else None})
    elif qr:
        click.echo(_drawn(text))
    else:
        click.echo(text, nl=False)


def _find(settings: Config, key: PublicKey) -> tuple[Tunnel, Peer]:
    wanted = records.wanted_by_tunnel(files.read(settings.peers.path), settings)
    for tunnel in settings.tunnel:
        peer = wanted[tunnel.name].get(key)
        if peer is not None:
            return tunnel, peer
    raise PeerError(
        f"{settings.peers.path}: no peer with this public key",
        hint="`jetplane peers list` shows them, `peers add` adds",
    )


def _private_key(file: Path, peer: Peer) -> str:
    """The key as text, after making sure that it is this peer's."""
    from jetplane.wireguard.public import public_key

    if public_key(file) != peer.public_key:
        raise PeerError(f"{file}: is not the private key of this peer", hint="`wg pubkey < FILE` shows whose it is")
    return file.read_text(encoding="ascii").strip()


def _endpoint(settings: Config, tunnel: Tunnel, endpoint: str | None, entry: str | None) -> Endpoint:
    if entry:
        return Endpoint.parse(settings.client.entries.get(entry, entry))
    host = endpoint or settings.client.endpoint
    if not host:
        raise ConfigurationError("no endpoint for subscribers", hint="set client.endpoint, or give --endpoint HOST")
    return Endpoint.parse(host, default_port=tunnel.listen_port)


def _drawn(text: str) -> str:
    import segno  # nor is what draws

    out = io.StringIO()
    segno.make_qr(text).terminal(out, compact=True)
    return out.getvalue()


def _save(text: str, file: Path) -> None:
    """Write the picture for the operator's eyes only: it holds a private key."""
    import segno

    picture = io.BytesIO()
    segno.make_qr(text).save(picture, kind=file.suffix[1:], scale=6)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            os.fchmod(descriptor, 0o600)
            handle.write(picture.getvalue())
    except OSError as error:
        raise PeerError(f"{file}: cannot be written: {error.strerror}") from None
