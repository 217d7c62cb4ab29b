"""The node's configuration: one TOML file, typed, every value checked before anything is done.

`load` parses and checks; what it returns is frozen and trusted everywhere else. Whether the machine has what
the configuration names (an uplink, an exit address routed to it, a free port) is for `preflight` to say.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from jetplane.config.checks import CHECKS
from jetplane.config.lines import line_of, value_at
from jetplane.config.resolvers import with_resolvers
from jetplane.config.sharding import sharded
from jetplane.config.tables import (
    DNS_PORT,
    PRIVATE,
    Config,
    Filtering,
    Guard,
    Metrics,
    Nats,
    Service,
    Tunnel,
    addresses_of,
    resolvers_of,
    tunnel_networks,
)
from jetplane.config.values import fail, toml
from jetplane.errors import ConfigurationError

__all__ = [
    "DNS_PORT",
    "PRIVATE",
    "Config",
    "Filtering",
    "Guard",
    "Metrics",
    "Nats",
    "Service",
    "Tunnel",
    "addresses_of",
    "load",
    "parse",
    "refused",
    "resolvers_of",
    "tunnel_networks",
]


def load(path: Path) -> Config:
    """Read and check the configuration file. Raises ConfigurationError naming file, line, key, value, expectation."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}", hint="name it with --config") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8 text") from None
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: is not TOML: {error}") from None
    try:
        return parse(tree, path)
    except ConfigurationError as error:
        raise _with_line(error, path, text) from None


def refused(path: Path, key: str, value: object, expected: str) -> ConfigurationError:
    """The error, with its line, about a value that a loaded file has, and that this machine cannot take."""
    return _with_line(fail(path, key, value, expected), path, path.read_text(encoding="utf-8", errors="replace"))


def parse(tree: dict[str, Any], path: Path) -> Config:
    """Turn decoded TOML into a checked Config; `path` is named in errors and anchors relative paths."""
    try:
        config = msgspec.convert(tree, Config, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise _explain(error, tree, path) from None
    config = _absolute(config, path.resolve().parent)
    for check in CHECKS:
        check(config, path)
    return with_resolvers(sharded(config, path), path)


_KEY_IN_ERROR = re.compile(r"(?P<key>[\w.\[\]-]+)(?: =|:) ")


def _with_line(error: ConfigurationError, path: Path, text: str) -> ConfigurationError:
    """The same with the line of the key that stands behind the path; as it is, where there is none."""
    rest = str(error).removeprefix(f"{path}: ")
    key = _KEY_IN_ERROR.match(rest)
    line = line_of(text, key["key"]) if key else 0
    return ConfigurationError(f"{path}: line {line}: {rest}", hint=error.hint) if line else error


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        if not isinstance(value, str) or not value:
            raise ValueError("expected a path")
        return Path(value)
    raise NotImplementedError(kind)


def _absolute(config: Config, base: Path) -> Config:
    replace = msgspec.structs.replace
    return replace(
        config,
        run_directory=base / config.run_directory,
        peers=replace(config.peers, path=base / config.peers.path),
        guard=replace(config.guard, blocklists=tuple(base / path for path in config.guard.blocklists)),
        nats=replace(config.nats, **_absolute_files(config.nats, base)),
        metrics=replace(config.metrics, **_absolute_files(config.metrics, base)),
        tunnel=tuple(replace(t, private_key_file=base / t.private_key_file) for t in config.tunnel),
    )


def _absolute_files(table: Nats | Metrics, base: Path) -> dict[str, str]:
    """The keys of a table that end in `_file` and name one."""
    files = ((key, getattr(table, key)) for key in table.__struct_fields__ if key.endswith("_file"))
    return {key: str(base / text) for key, text in files if text}


_LEAST = {
    "nat.udp_timeout": "RFC 4787, REQ-5",
    "nat.tcp_established_timeout": "RFC 5382, REQ-5",
    "nat.tcp_transitory_timeout": "RFC 5382, REQ-5",
    "nat.tcp_closing_timeout": "RFC 7857, section 2.1",
    "nat.icmp_timeout": "RFC 5508, REQ-2",
}
"""Where the least value of a timer comes from."""

_PATH_IN_ERROR = re.compile(r" - at `\$?(?P<path>[^`]*)`$")
_UNKNOWN_KEY = re.compile(r"unknown field `(?P<key>[^`]+)`")
_MISSING_KEY = re.compile(r"missing required field `(?P<key>[^`]+)`")


def _explain(error: msgspec.ValidationError, tree: dict[str, Any], path: Path) -> ConfigurationError:
    """Say a decoding error in the file's own words."""
    message = str(error)
    where = _PATH_IN_ERROR.search(message)
    key = where["path"].lstrip(".") if where else ""
    reason = _PATH_IN_ERROR.sub("", message)
    dotted = f"{key}." if key else ""
    if unknown := _UNKNOWN_KEY.search(reason):
        return ConfigurationError(
            f"{path}: {dotted}{unknown['key']}: unknown key",
            hint="remove it, or correct its name: the sample configuration lists every key",
        )
    if missing := _MISSING_KEY.search(reason):
        return ConfigurationError(f"{path}: {dotted}{missing['key']}: is missing")
    return ConfigurationError(
        f"{path}: {key} = {toml(value_at(tree, key))}: {reason[0].lower()}{reason[1:]}",
        hint=f"{_LEAST[key]} asks for no less" if key in _LEAST and ">=" in reason else "",
    )
