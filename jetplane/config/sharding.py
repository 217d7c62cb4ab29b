"""A tunnel that is spread over several interfaces, as that many tunnels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from jetplane import shards
from jetplane.config.tables import Config, Tunnel
from jetplane.config.values import fail
from jetplane.errors import ConfigurationError


def sharded(config: Config, path: Path) -> Config:
    """The same with every shard as a tunnel of its own."""
    if all(tunnel.shards == 1 for tunnel in config.tunnel):
        return config
    tunnels: list[Tunnel] = []
    for index, tunnel in enumerate(config.tunnel):
        tunnels += _shards(tunnel, f"tunnel[{index}]", config, path)
    for index, tunnel in enumerate(tunnels):
        for other in tunnels[:index]:
            if tunnel.name == other.name or tunnel.listen_port == other.listen_port:
                what = f"{tunnel.name} at port {tunnel.listen_port}"
                raise ConfigurationError(f"{path}: tunnel: {what} stands for two shards or tunnels", hint=_COUNTED)
    return msgspec.structs.replace(config, tunnel=tuple(tunnels))


_COUNTED = "names and ports of shards are counted on from those of their tunnel: leave room"


def _shards(tunnel: Tunnel, key: str, config: Config, path: Path) -> Iterator[Tunnel]:
    count = tunnel.shards
    followed = next((other for other in config.tunnel if other.name == tunnel.follows), tunnel)
    if followed.shards != count:
        raise fail(path, f"{key}.shards", count, f"as many as {followed.name} has, which it follows")
    if tunnel.listen_port + count - 1 > 65535:
        raise fail(path, f"{key}.listen_port", tunnel.listen_port, f"a port after which there are {count - 1} more")
    if count == 1:
        yield tunnel
        return
    try:
        names, follows = shards.names(tunnel.name, count), shards.names(followed.name, count)
    except ValueError as error:
        raise fail(path, f"{key}.name", tunnel.name, str(error)) from None
    spread = []
    for text in tunnel.addresses:
        try:
            spread.append(shards.parts(text, count))
        except ValueError as error:
            raise fail(path, f"{key}.addresses", text, str(error)) from None
    for number, name in enumerate(names):
        if name == config.uplink.interface:
            raise fail(path, f"{key}.name", tunnel.name, f"a name whose shards leave the uplink's, {name}, out")
        yield msgspec.structs.replace(
            tunnel,
            name=name,
            listen_port=tunnel.listen_port + number,
            addresses=tuple(parts[number] for parts in spread),
            follows=follows[number] if tunnel.follows else "",
            shards=1,
        )
