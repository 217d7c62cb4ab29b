"""What can be asked of a running controller: paths, bodies, answers. API.md beside this file is their description."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from jetplane.admin.edits import Edits, Kind
from jetplane.admin.messages import Answer, Change, Refused, Reply, Request, error_answer
from jetplane.admin.rows import row
from jetplane.errors import JetplaneError, PeerError
from jetplane.model import Peer, PublicKey
from jetplane.sources.records import Record

VERSION = "v1"


class Control(Protocol):
    """What the controller can be told to do. Each may raise JetplaneError."""

    def report(self) -> Mapping[str, Any]:
        """The state of the node, as `jetplane status --json` prints it."""

    def reload(self) -> Mapping[str, Any]:
        """Take configuration and peers anew, or refuse and keep the old."""

    def drain(self, tunnels: Iterable[str]) -> None:
        """Take no new handshakes on these tunnels."""

    def undrain(self, tunnels: Iterable[str]) -> None:
        """Take handshakes again."""

    def sessions(self, answer: Callable[[Mapping[str, Any]], None]) -> None:
        """Tell which tunnels drain, and how many sessions each tunnel has: numbers, nobody's name."""

    def forget(self, public_key: PublicKey) -> bool:
        """Cut a key off and hold it back; whether its source has it."""

    def peers(self) -> Iterable[tuple[Peer, str]]:
        """The peers that are wanted now, and those that are restricted, each with its tunnel."""

    def take_peers(self) -> None:
        """Take from the source what it has now."""

    def refuse_unless_files(self) -> None:
        """Raise PeerError when peers do not come from files of this node."""


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    public_key: str

    def __repr__(self) -> str:
        return "_Key(hidden)"


class _Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    public_keys: tuple[str, ...]

    def __repr__(self) -> str:
        return "_Keys(hidden)"


class _Records(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    peers: tuple[Record, ...]

    def __repr__(self) -> str:
        return "_Records(hidden)"


class _Tunnels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tunnels: tuple[str, ...] = ()
    """None named: all."""


_Body = TypeVar("_Body", bound=msgspec.Struct)
_Work = Callable[[bytes, Reply], None]


class Api:
    """Finds what a request asks for. `config_path` is what edits of the peers' files are made by."""

    def __init__(self, control: Control, edits: Edits, config_path: Path) -> None:
        self._control, self._edits, self._config_path = control, edits, config_path
        self._routes: dict[str, dict[str, _Work]] = {
            "/v1/status": {"GET": lambda _, reply: reply(_ok(control.report()))},
            "/v1/reload": {"POST": lambda _, reply: reply(_ok(control.reload()))},
            "/v1/sessions": {"GET": lambda _, reply: control.sessions(lambda told: reply(_ok(told)))},
            "/v1/drain": {"POST": self._drain},
            "/v1/undrain": {"POST": self._undrain},
            "/v1/forget": {"POST": self._forget},
            "/v1/peers": {"GET": self._list},
            "/v1/peers/add": {"POST": self._add},
            "/v1/peers/remove": {"POST": self._remove},
            "/v1/peers/set": {"POST": self._set},
        }

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer a request, now or when an edit is done. Raises JetplaneError for what is refused."""
        path = request.path.split("?")[0]
        methods = self._routes.get(path)
        if methods is None:
            hint = "" if path.startswith(f"/{VERSION}/") else f"this node speaks {VERSION}: /{VERSION}/status"
            raise Refused(HTTPStatus.NOT_FOUND, "no_such_path", "there is nothing at this path", hint=hint)
        work = methods.get(request.method)
        if work is None:
            allowed = ", ".join(methods)
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "wrong_method", f"this path takes {allowed} only")
        work(request.body, reply)

    def _drain(self, body: bytes, reply: Reply) -> None:
        self._control.drain(_read(body, _Tunnels).tunnels)
        self._control.sessions(lambda told: reply(_ok(told)))

    def _undrain(self, body: bytes, reply: Reply) -> None:
        self._control.undrain(_read(body, _Tunnels).tunnels)
        self._control.sessions(lambda told: reply(_ok(told)))

    def _list(self, _: bytes, reply: Reply) -> None:
        self._require_files()
        reply(_ok({"peers": [row(peer, tunnel) for peer, tunnel in self._control.peers()]}))

    def _add(self, body: bytes, reply: Reply) -> None:
        self._require_files()
        self._edit("add", _read(body, _Records).peers, reply)

    def _remove(self, body: bytes, reply: Reply) -> None:
        self._require_files()
        self._edit("remove", _read(body, _Keys).public_keys, reply)

    def _set(self, body: bytes, reply: Reply) -> None:
        self._require_files()
        change = _read(body, Change)
        if not change.flags:
            message = "nothing to set: expected restricted, statistics or both"
            raise Refused(HTTPStatus.BAD_REQUEST, "bad_request", message)
        self._edit("set", change, reply)

    def _edit(self, kind: Kind, wanted: object, reply: Reply) -> None:
        """Change the files by a process of its own, then take from them what they have now."""

        def done(result: Mapping[str, Any]) -> None:
            self._control.take_peers()
            reply(_ok(result))

        self._edits.start(kind, self._config_path, msgspec.json.encode(wanted), done, _failed(reply))

    def _forget(self, body: bytes, reply: Reply) -> None:
        """The key is cut off at once. Its record, if it stands in a file, is taken out by a process of its own."""
        key = _key(_read(body, _Key).public_key)
        known = self._control.forget(key)
        try:
            self._control.refuse_unless_files()
        except PeerError:
            if not known:
                raise _unknown() from None
            reply(_ok({"forgotten": True, "record": "held"}))
            return

        def done(result: Mapping[str, Any]) -> None:
            self._control.take_peers()
            if known or result["count"]:
                reply(_ok({"forgotten": True, "record": "removed" if result["count"] else "none"}))
            else:
                reply(error_answer(_unknown()))

        def failed(error: JetplaneError) -> None:
            message = f"cut off and kept away, but its record stays: {error}"
            reply(error_answer(Refused(HTTPStatus.CONFLICT, "record_stays", message, hint=error.hint)))

        try:
            self._edits.start("forget", self._config_path, msgspec.json.encode((key.text(),)), done, failed)
        except JetplaneError as error:
            failed(error)

    def _require_files(self) -> None:
        try:
            self._control.refuse_unless_files()
        except PeerError as error:
            raise Refused(HTTPStatus.CONFLICT, "not_file_mode", str(error), hint=error.hint) from None


def _ok(body: Mapping[str, Any]) -> Answer:
    return Answer(int(HTTPStatus.OK), body)


def _failed(reply: Reply) -> Callable[[JetplaneError], None]:
    def work(error: JetplaneError) -> None:
        reply(error_answer(error))

    return work


def _read(body: bytes, kind: type[_Body]) -> _Body:
    """Decode a body; none at all is an empty object. What is wrong is told without repeating any value."""
    try:
        return msgspec.json.decode(body.strip() or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "bad_request", str(error).replace("$.", "")) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refused(HTTPStatus.BAD_REQUEST, "bad_json", "the body is not JSON") from None


def _key(text: str) -> PublicKey:
    try:
        return PublicKey.parse(text)
    except PeerError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "bad_request", str(error)) from None


def _unknown() -> Refused:
    return Refused(
        HTTPStatus.NOT_FOUND, "unknown_peer", "no peer with this public key", hint="`jetplane peers list` shows them"
    )
