"""What the controller says about itself: one small file without identifiers, for `jetplane status` and monitoring."""

from __future__ import annotations

from pathlib import Path

import msgspec

from jetplane.errors import JetplaneError

FILE = "status.json"


class TunnelStatus(msgspec.Struct, frozen=True):
    """One tunnel interface; `observed` counts what WireGuard held when it was last asked or told."""

    name: str
    listen_port: int
    wanted: int
    observed: int


class PrivacyStatus(msgspec.Struct, frozen=True):
    """What figures of class D tell of one peer's UTC day, and how their releases go."""

    rho: float  # zCDP
    epsilon: float
    delta: float
    promised: bool  # it is what jetplane promises; false: epochs are shorter than that
    use: str  # of one node's figures: "node", or "sum" with others only
    released_until: dict[str, int]  # by kind of epoch: Unix seconds
    skipped: dict[str, int]  # epochs since the start of the controller


class Status(msgspec.Struct, frozen=True):
    """The controller's view. `errors` counts failures by kind since its start; `problems` are those that stand."""

    version: str
    pid: int
    ready: bool
    wireguard: str  # kernel, userspace, or veth: not a VPN
    transport: str
    generation: int  # configurations and peer sets applied since the start
    tunnels: tuple[TunnelStatus, ...]
    errors: dict[str, int]
    problems: tuple[str, ...] = ()
    draining: tuple[str, ...] = ()  # tunnels that take no new handshakes
    source: str = "files"  # where peers come from
    source_ok: bool = True  # it is followed; else the peers stay as they are
    refused: dict[str, int] = {}  # records that are not applied, by kind
    refused_first: tuple[str, ...] = ()  # some of them, by their place: never by key or address
    privacy: PrivacyStatus | None = None  # None: no figures of class D


def write(directory: Path, status: Status) -> None:
    """Replace the status file at once (rename(2))."""
    new = directory / f".{FILE}.new"
    new.write_bytes(msgspec.json.encode(status))
    new.replace(directory / FILE)


def read(directory: Path) -> Status:
    """Read the last status. Raises JetplaneError when no controller has written one."""
    file = directory / FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=Status)
    except FileNotFoundError:
        raise JetplaneError(f"{file}: is not there", hint="no node runs here; start it with `jetplane run`") from None
    except PermissionError:
        raise JetplaneError(f"{file}: may not be read", hint="run as root") from None
    except msgspec.DecodeError:
        raise JetplaneError(f"{file}: is not a status file") from None
