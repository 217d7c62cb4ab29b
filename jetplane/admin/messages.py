"""What goes in and out of the API, apart from how it is carried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec

from jetplane.errors import JetplaneError


@dataclass(frozen=True, slots=True)
class Request:
    """A request, read to its end."""

    method: str
    path: str
    body: bytes

    def __repr__(self) -> str:
        return f"Request({self.method} {self.path})"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: a status and a JSON object."""

    status: int
    body: Mapping[str, Any]
    headers: tuple[tuple[str, str], ...] = field(default=())

    def __repr__(self) -> str:
        return f"Answer({self.status})"

    def encoded(self) -> bytes:
        """The body as it is sent."""
        return msgspec.json.encode(self.body) + b"\n"


Reply = Callable[[Answer], None]
"""Gives the answer to a request, at once or later, exactly once."""


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is set in the records of these keys; None: stays as it is."""

    public_keys: tuple[str, ...]
    restricted: bool | None = None
    statistics: bool | None = None

    def __repr__(self) -> str:
        return "Change(hidden)"

    @property
    def flags(self) -> dict[str, bool]:
        """Those that are to be set, by their names in a record."""
        both = {"restricted": self.restricted, "statistics": self.statistics}
        return {name: flag for name, flag in both.items() if flag is not None}


class Refused(JetplaneError):
    """A request that gets an error: `code` is for programs, the message and the hint are for people."""

    def __init__(self, status: HTTPStatus, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status, self.code = status, code


def error_answer(error: JetplaneError, *, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """`{"error": {"code", "message", "hint"}}`. What is not a refusal of the request itself is the node's failure."""
    if isinstance(error, Refused):
        status, code = error.status, error.code
    else:
        status, code = HTTPStatus.INTERNAL_SERVER_ERROR, type(error).__name__.removesuffix("Error").lower()
    return Answer(int(status), {"error": {"code": code, "message": str(error), "hint": error.hint}}, headers)
