"""Judges WireGuard's own memory of its peers."""

from __future__ import annotations

from collections.abc import Iterator

from jetplane.privacy.facts import Facts, Idle
from jetplane.privacy.question import Answer, Question, answer


def _idle(facts: Facts) -> Answer:
    broken = [finding for tunnel in facts.idle for finding in _findings(tunnel)]
    looked = f"endpoints and handshake times of {sum(tunnel.peers for tunnel in facts.idle)} peers, read and counted"
    looked += " by a process that ends" if facts.idle else "; there is no WireGuard here"
    hint = "see whether the controller runs and what `jetplane status` says: it evicts idle peers"
    return answer(looked, broken, "none is remembered for too long", hint)


def _findings(tunnel: Idle) -> Iterator[str]:
    if tunnel.trouble:
        yield tunnel.trouble
    if tunnel.overdue:
        yield f"{tunnel.tunnel}: {tunnel.overdue} peers with an endpoint or a handshake older than 210 s"
    if tunnel.half_open:
        yield f"{tunnel.tunnel}: {tunnel.half_open} half-open handshakes remembered for more than 30 s"


QUESTIONS = (
    Question(
        "idle-peers", "where a peer was is forgotten 210 s after its session, 30 s after a half-open handshake", _idle
    ),
)
