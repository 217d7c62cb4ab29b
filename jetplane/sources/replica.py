"""A bucket as this node knows it: what came out of it, in any order that two consumers may deliver, and what follows.

One consumer watches: it brings every change. Another one, now and then, brings all that there is, so that what went
unseen while nobody watched is found: that is a comparison. Both are told here; a revision says which of two is newer.
Pure: no clock, no connection.
"""

from __future__ import annotations

import base64
import binascii
from array import array
from bisect import bisect_left
from collections.abc import Hashable
from typing import NamedTuple

import msgspec

from jetplane.config import Config
from jetplane.errors import PeerError
from jetplane.model import Peer, PublicKey
from jetplane.sources.interface import Change
from jetplane.sources.judge import Judge, Reading, difference
from jetplane.sources.records import Terms, explain, rates, to_peer


class Entry(NamedTuple):
    """The newest value of a key. None: it was deleted or purged."""

    key: str
    revision: int
    value: bytes | None

    def __repr__(self) -> str:
        return f"Entry(revision={self.revision})"


class Replica:
    """`complete` once everything that the bucket held at some moment has been taken in; before, nothing is told."""

    def __init__(self, config: Config, own_keys: frozenset[PublicKey]) -> None:
        self._config, self._own_keys = config, own_keys
        self._rates = rates(config)
        self._judge = self._new_judge()
        self._before: dict[PublicKey, Peer] | None = None  # what was told of the bucket that this one replaces
        self._whole = True  # the next change that is told is everything
        self._told: tuple[int, object] = (-1, None)
        self.comparison = 0  # the number of the one that goes on, 0 if none
        self._compared_to = 0
        self._seen: array[int] = array("Q")  # revisions, ascending
        self._gone: dict[Hashable, int] = {}  # deleted since the comparison began, and at which revision
        self.stream = ""  # tells this bucket from one of the same name that was made at another time
        self.revision = 0
        self.complete = False

    def reset(self, stream: str) -> None:
        """Begin anew: what is held is of another bucket. What was told stays in force until this one is complete."""
        if self.complete:
            self._before = self._judge.in_force()
        self._judge = self._new_judge()
        self._compare(0, 0)
        self.stream, self.revision, self.complete, self._whole = stream, 0, False, True

    def watch(self, entry: Entry) -> None:
        """Take a change."""
        self._take(entry)
        self.revision = max(self.revision, entry.revision)

    def begin(self, number: int, revision: int) -> None:
        """A comparison begins that will bring all that there was at this revision, and maybe what came later.

        To be told in the order of the watch, before the comparison's consumer exists: then a deletion that this
        consumer does not know of yet is never told before.
        """
        self._compare(number, revision)

    def seen(self, number: int, entry: Entry) -> None:
        """Take what a comparison brought; revisions ascend."""
        if number == self.comparison:
            self._take(entry)
            self._seen.append(entry.revision)

    def end(self, number: int) -> None:
        """A comparison has brought everything: what it has not brought is gone."""
        if number != self.comparison:
            return
        for slot in [slot for slot, revision in self._judge.ranks() if self._is_missing(revision)]:
            self._judge.drop(slot)
        self.revision = max(self.revision, self._compared_to)
        self.complete = True
        self._compare(0, 0)

    def follow(self, config: Config, own_keys: frozenset[PublicKey]) -> None:
        """Judge by other terms."""
        self._config, self._own_keys = config, own_keys
        self._rates = rates(config)
        self._judge.follow(config, own_keys)

    def settle(self) -> Change | None:
        """What there is to tell."""
        changed = self._judge.settle()
        if not self.complete:
            return None
        refused = self._judge.refusals()
        if not self._whole and not changed and self._told == (self.revision, refused):
            return None
        self._told = (self.revision, refused)
        if not self._whole:
            return Change(False, changed, self.revision, refused)
        self._whole = False
        before, self._before = self._before, None
        now = self._judge.in_force()
        if before is None:
            return Change(True, now, self.revision, refused)
        return Change(False, difference(before, now), self.revision, refused)

    @property
    def refused(self) -> int:
        """How many records stand refused."""
        return self._judge.refusals().total

    def _take(self, entry: Entry) -> None:
        key = _public_key(entry.key)
        slot: Hashable = entry.key if key is None else key
        newest = max(self._judge.rank(slot) or 0, self._gone.get(slot, 0))
        if entry.revision <= newest:
            return
        if entry.value is None:
            if self.comparison:
                self._gone[slot] = entry.revision
            self._judge.drop(slot)
        else:
            self._judge.put(slot, entry.revision, self._reading(key, entry.value))

    def _reading(self, key: PublicKey | None, value: bytes) -> Reading:
        if key is None:
            return Reading(None, reason="its key is not a public key in base64url without padding")
        try:
            terms = msgspec.json.decode(value, type=Terms)
            return Reading(to_peer(key, terms, self._rates), terms.plan)
        except msgspec.ValidationError as error:
            return Reading(None, reason=explain(error))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Reading(None, reason="is not JSON")
        except PeerError as error:
            return Reading(None, reason=str(error))

    def _compare(self, number: int, revision: int) -> None:
        self.comparison, self._compared_to = number, revision
        self._seen = array("Q")
        self._gone.clear()

    def _is_missing(self, revision: int) -> bool:
        if revision > self._compared_to:
            return False
        at = bisect_left(self._seen, revision)
        return at == len(self._seen) or self._seen[at] != revision

    def _new_judge(self) -> Judge:
        bucket = self._config.nats.bucket
        return Judge(self._config, self._own_keys, lambda revision: f"{bucket}: revision {revision}")


def kv_key(public_key: PublicKey) -> str:
    """A public key as the key of a bucket: base64url without padding (RFC 4648, section 5), 43 characters.

    The `+` of ordinary base64 may not stand in a key of NATS, and `/` and `=` are better kept out of subjects.
    """
    return base64.urlsafe_b64encode(public_key).decode().rstrip("=")


def _public_key(key: str) -> PublicKey | None:
    if len(key) != 43:
        return None
    try:
        public_key = PublicKey(base64.b64decode(key + "=", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        return None
    return public_key if kv_key(public_key) == key else None  # the last character has two bits to spare
