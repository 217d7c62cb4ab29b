"""What an audit asks, and what it answers. A question is pure: facts in, answer out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jetplane.privacy.facts import Facts

_NAMED = 5
"""So many findings are named; `detail` says how many more there are."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict on one promise. `detail` names places and counts, never a key, an address or a secret."""

    ok: bool
    looked_at: str
    detail: str
    hint: str = ""  # what to do; empty when there is nothing


@dataclass(frozen=True, slots=True)
class Question:
    """One check; `name` is the one that the inventory knows it by."""

    name: str
    promise: str
    judge: Callable[[Facts], Answer]


@dataclass(frozen=True, slots=True)
class Check:
    """One row of an audit."""

    name: str
    ok: bool
    promise: str
    looked_at: str
    detail: str
    hint: str


def ask(question: Question, facts: Facts) -> Check:
    """Put one question."""
    answer = question.judge(facts)
    return Check(question.name, answer.ok, question.promise, answer.looked_at, answer.detail, answer.hint)


def answer(looked_at: str, broken: Sequence[str], well: str, hint: str) -> Answer:
    """Kept when nothing is broken; else what is, and what to do."""
    if not broken:
        return Answer(True, looked_at, well)
    more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return Answer(False, looked_at, "; ".join(broken[:_NAMED]) + more, hint)
