"""Who may do what on a NATS server: an operator, its account, and users with credentials files, as `nsc` makes them."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nkeys

from tests.netns.certificates import Authority

_ANY = -1
_LIMITS = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
_STORAGE = ("mem_storage", "disk_storage", "streams", "consumer")  # having these is having JetStream


class Accounts:
    """One operator with one account that has JetStream."""

    def __init__(self) -> None:
        self._operator = _pair(nkeys.PREFIX_BYTE_OPERATOR)
        self._account, self._system = (_pair(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2))

    def server_config(self) -> str:
        """What makes a server trust this operator only."""
        operator = _jwt(self._operator, self._operator, "operator", {})
        accounts = {pair.public_key.decode(): self._account_jwt(pair) for pair in (self._system, self._account)}
        preload = ", ".join(f"{public}: {token}" for public, token in accounts.items())
        system = self._system.public_key.decode()
        return f"operator: {operator}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload: {{ {preload} }}\n"

    def _account_jwt(self, pair: Any) -> str:
        limits = {**dict.fromkeys(_LIMITS, _ANY), "wildcards": True}
        if pair is self._account:
            limits |= dict.fromkeys(_STORAGE, _ANY)
        return _jwt(self._operator, pair, "account", {"limits": limits})

    def user(self, file: Path, *, publish: Sequence[str] = (">",), subscribe: Sequence[str] = (">",)) -> Path:
        """Write the credentials file of a new user."""
        user = _pair(nkeys.PREFIX_BYTE_USER)
        rights = {"pub": {"allow": list(publish)}, "sub": {"allow": list(subscribe)}}
        token = _jwt(self._account, user, "user", {**rights, **dict.fromkeys(("subs", "data", "payload"), _ANY)})
        parts = (("NATS USER JWT", token), ("USER NKEY SEED", user.seed.decode()))
        file.write_text("\n".join(f"-----BEGIN {name}-----\n{text}\n------END {name}------\n" for name, text in parts))
        file.chmod(0o600)
        return file


def _pair(prefix: int) -> Any:
    return nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), prefix)))


def _jwt(issuer: Any, subject: Any, kind: str, claims: dict[str, Any]) -> str:
    body = {
        "jti": kind,
        "iat": int(time.time()),
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": kind,
        "nats": {**claims, "type": kind, "version": 2},
    }
    text = ".".join(_base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
    return f"{text}.{_base64(issuer.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Certificates:
    """An authority, and what it has signed for the server on 127.0.0.1 and for a node, all in PEM."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory)
        self.ca = authority.ca
        self.server, self.server_key = authority.issue("server", "subjectAltName=IP:127.0.0.1")
        self.node, self.node_key = authority.issue("node", "extendedKeyUsage=clientAuth")

    def server_config(self, *, verify: bool) -> str:
        """TLS for the server; with `verify` it asks clients for a certificate."""
        files = f'cert_file: "{self.server}", key_file: "{self.server_key}", ca_file: "{self.ca}"'
        return f"tls {{ {files}, verify: {str(verify).lower()} }}\n"
