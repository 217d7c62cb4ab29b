"""The answers of the exporter: finished before anybody asks, the same for everybody."""

from __future__ import annotations

import os
from dataclasses import dataclass

from jetplane.metrics.publish import OPENMETRICS, TEXT

_TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def _answer(status: str, body: bytes, kind: str = "text/plain; charset=utf-8", extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{extra}\r\n"
    )
    return head.encode("ascii") + body


NOT_FOUND = _answer("404 Not Found", b"not found: try /metrics\n")
BAD_REQUEST = _answer("400 Bad Request", b"bad request\n")
BODY_REFUSED = _answer("413 Content Too Large", b"no request body is taken\n")
METHOD_REFUSED = _answer("405 Method Not Allowed", b"GET or HEAD only\n", extra="Allow: GET, HEAD\r\n")
TOO_LARGE = _answer("431 Request Header Fields Too Large", b"the request is too long\n")
NO_RELEASE = _answer("503 Service Unavailable", b"no release yet\n")


@dataclass(slots=True)
class Release:
    """Finished answers, made when a release is read."""

    text: bytes = NO_RELEASE
    openmetrics: bytes = NO_RELEASE
    mark: tuple[int, int] = (0, 0)  # inode, mtime of the file it came from

    def refresh(self, directory: int) -> None:
        """Read the release again if it was replaced. `directory` is a descriptor: its parents need not be readable."""
        try:
            found = os.stat(TEXT, dir_fd=directory)
            mark = (found.st_ino, found.st_mtime_ns)
            if mark == self.mark:
                return
            self.text = _answer("200 OK", _read(TEXT, directory), _TEXT_TYPE)
            self.openmetrics = _answer("200 OK", _read(OPENMETRICS, directory), _OPENMETRICS_TYPE)
            self.mark = mark
        except FileNotFoundError:
            self.text = self.openmetrics = NO_RELEASE
            self.mark = (0, 0)
        except OSError:
            return  # what was read before is still true

    def answer(self, request: bytes) -> bytes:
        """The answer to a request's head."""
        lines = request.split(b"\r\n")
        words = lines[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return BAD_REQUEST
        headers = [(name.strip().lower(), value.strip()) for name, _, value in (x.partition(b":") for x in lines[1:])]
        if any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers
        ):
            return BODY_REFUSED
        if words[0] not in (b"GET", b"HEAD"):
            return METHOD_REFUSED
        answer = NOT_FOUND
        if words[1].partition(b"?")[0] == b"/metrics":
            accept = b",".join(value for name, value in headers if name == b"accept")
            answer = self.openmetrics if b"application/openmetrics-text" in accept else self.text
        return answer if words[0] == b"GET" else answer[: answer.index(b"\r\n\r\n") + 4]


def _read(name: str, directory: int) -> bytes:
    with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory), "rb") as file:
        return file.read()
