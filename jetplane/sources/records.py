"""Peer records as an operator or a control plane writes them, and what each must satisfy by itself.

A record is named by where it stands, never by its key or address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec

from jetplane.config import Config
from jetplane.errors import PeerError
from jetplane.model import InnerAddress, Peer, PresharedKey, PublicKey, Rate
from jetplane.sources.tunnels import Tunnels

Expiry = Annotated[datetime, msgspec.Meta(tz=True)]
"""RFC 3339 text with its offset, or TOML's own date-time. A fraction of a second is cut off: never later than said."""


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What a record says about a peer besides its key."""

    allowed_ips: tuple[str, ...]
    preshared_key: str | None = None  # base64, as wg(8) writes it
    persistent_keepalive: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0  # seconds, 0: off
    plan: str | None = None
    expires_at: Expiry | None = None
    statistics: bool = True  # false: in none of the figures that are released
    restricted: bool = False  # true: the record stays, no traffic is processed

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"


class Record(Terms, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One peer as it stands in a file."""

    public_key: str  # base64

    def __repr__(self) -> str:
        return "Record(hidden)"


def written(record: Record) -> dict[str, Any]:
    """The record as it is written to a file: its key first, then what is not a default."""
    fields: dict[str, Any] = msgspec.to_builtins(record)
    return {"public_key": record.public_key} | fields | {"allowed_ips": list(record.allowed_ips)}


class RecordFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of peers: `[[peer]]` tables in TOML, `{"peer": [...]}` in JSON."""

    peer: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """A record and where it stands: `peers.toml: peer[3]`."""

    record: Record
    place: str


def expiry(text: str) -> datetime:
    """Read RFC 3339 text with an offset, as records hold it. Raises PeerError."""
    try:
        return msgspec.convert(text, Expiry)
    except msgspec.ValidationError:
        raise PeerError("expires_at: expected a time with its offset, like 2027-01-31T00:00:00Z") from None


def to_peer(public_key: PublicKey, terms: Terms, rates: Mapping[str | None, Rate]) -> Peer:
    """Turn what a record says into a peer. `rates` are those of the plans; one that is not there is for the judge.

    Raises PeerError without repeating a value.
    """
    if not terms.allowed_ips:
        raise PeerError("allowed_ips: is empty", hint='give the peer an address, like ["10.64.0.2/32"]')
    addresses = tuple(sorted(map(InnerAddress.parse, terms.allowed_ips)))
    if len(set(addresses)) != len(addresses):
        raise PeerError("allowed_ips: holds an address twice")
    return Peer(
        public_key=public_key,
        allowed_ips=addresses,
        preshared_key=PresharedKey.parse(terms.preshared_key) if terms.preshared_key else None,
        persistent_keepalive=terms.persistent_keepalive,
        rate=rates.get(terms.plan, _NO_RATE),
        expires_at=None if terms.expires_at is None else int(terms.expires_at.timestamp() // 1),
        statistics=terms.statistics,
        restricted=terms.restricted,
    )


_NO_RATE = Rate()  # one for all: a hundred thousand peers share it


def rates(config: Config) -> dict[str | None, Rate]:
    """Plan → what its peers may use; None stands for the default plan."""
    plans: dict[str | None, Rate] = {name: plan.rate for name, plan in config.plan.items()}
    return plans | {None: plans[config.peers.default_plan]}


def unknown_plan(name: str | None, known: Iterable[str | None]) -> str:
    """Say that a record's plan is not in the configuration."""
    shown = f" = {name!r}" if name and _SAYABLE.fullmatch(name) else ""
    return f"plan{shown}: expected one of {', '.join(sorted(filter(None, known)))}"


_SAYABLE = re.compile(r"[A-Za-z0-9_-]{1,32}")  # too short for a key, and no address
_FIELD = re.compile(r"unknown field `(?P<name>[^`]*)`")


def explain(error: msgspec.ValidationError) -> str:
    """What is wrong with a record, in the words of msgspec, which repeat names of fields but no values.

    A field's name is the writer's own text: one that could be a key or an address is left out.
    """
    message = str(error).replace("$.", "")
    field = _FIELD.search(message)
    if field and not _SAYABLE.fullmatch(field["name"]):
        return "Object contains an unknown field"
    return message


class Claims:
    """Who owns what: takes records one by one, the earlier before the later."""

    def __init__(self, config: Config) -> None:
        self._tunnels, self._rates = Tunnels(config), rates(config)
        self._owners: dict[PublicKey | InnerAddress, str] = {}

    def take(self, item: Placed) -> tuple[str, Peer]:
        """Return the tunnel that a record's peer belongs to, and the peer; what it claims is its own from now on.

        Raises PeerError, which names the record's place, when it cannot be used beside those before it.
        """
        try:
            if item.record.plan not in self._rates:
                raise PeerError(unknown_plan(item.record.plan, self._rates))
            peer = to_peer(PublicKey.parse(item.record.public_key), item.record, self._rates)
            name = self._tunnels.of(peer.allowed_ips)
        except PeerError as error:
            raise PeerError(f"{item.place}: {error}", hint=error.hint) from None
        claims: tuple[PublicKey | InnerAddress, ...] = (peer.public_key, *peer.allowed_ips)
        for claim in claims:
            if claim in self._owners:
                raise PeerError(f"{item.place}: {also_owned(claim, self._owners[claim])}", hint=_ONE_OWNER)
        self._owners.update(dict.fromkeys(claims, item.place))
        return name, peer


def wanted_by_tunnel(placed: Iterable[Placed], config: Config) -> dict[str, dict[PublicKey, Peer]]:
    """Check all records together and return the wanted peers of each tunnel.

    For those who ask before anything runs: raises PeerError for the first record that cannot be used.
    """
    claims = Claims(config)
    wanted: dict[str, dict[PublicKey, Peer]] = {tunnel.name: {} for tunnel in config.tunnel}
    for name, peer in map(claims.take, placed):
        wanted[name][peer.public_key] = peer
    if (number := sum(map(len, wanted.values()))) > config.peers.max:
        raise PeerError(
            f"{config.peers.path}: {number} peers, but peers.max is {config.peers.max}", hint="raise peers.max"
        )
    return wanted


_ONE_OWNER = "each key and each address belongs to one peer"


def also_owned(claim: PublicKey | InnerAddress, place: str) -> str:
    """Say that an earlier record has what a later one claims."""
    what = "public_key" if isinstance(claim, PublicKey) else "allowed_ips"
    return f"{what}: also owned by {place}"
