"""What is logged: jetplane's events as they are, others' without their words (attacks 14 and 15)."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from jetplane.cli import logs

KEY = "canary0canary0canary0canary0canary0canary0c="


def logged(name: str, level: int, handler: logging.Handler | None = None) -> str:
    """What is written about a failure whose message and exception name a peer."""
    try:
        raise KeyError(KEY)
    except KeyError:
        record = logging.LogRecord(name, level, "/x/place.py", 7, "peer %s", (KEY,), sys.exc_info(), sinfo=KEY)
    said = io.StringIO()
    handler = handler or logs.handler(said)
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(said)
    handler.handle(record)
    return said.getvalue()


def test_own_events_are_told_as_they_are() -> None:
    assert logged("jetplane", logging.INFO).startswith(f"INFO peer {KEY}\n")
    assert logged("jetplane.nats", logging.DEBUG).startswith(f"DEBUG peer {KEY}\n")


@pytest.mark.parametrize("name", ["pyroute2", "asyncio", "nats.aio.client", "jetplanes", "root"])
def test_of_others_only_the_place_is_told_and_no_debugging(name: str) -> None:
    said = f"ERROR {name}: something at place.py:7; its words are left out, they may name somebody\n"
    assert logged(name, logging.ERROR) == said
    assert logged(name, logging.INFO) == logged(name, logging.DEBUG) == ""
    assert KEY in logged(name, logging.DEBUG, logging.StreamHandler()), "the control: a plain handler tells all"
