"""Every check there is, in the order of the inventory."""

from __future__ import annotations

from jetplane.privacy import dataplane, kernel, processes, release, sessions, traces
from jetplane.privacy.facts import Facts
from jetplane.privacy.question import Check, Question, ask

QUESTIONS: tuple[Question, ...] = (
    *sessions.QUESTIONS,
    *dataplane.QUESTIONS,
    *kernel.QUESTIONS,
    *processes.QUESTIONS,
    *traces.QUESTIONS,
    *release.QUESTIONS,
)


def judge(facts: Facts) -> tuple[Check, ...]:
    """Pure: one row a question, whatever is wrong."""
    return tuple(ask(question, facts) for question in QUESTIONS)
