"""Which of many new records fit beside those that are there: one that does not is named and left out."""

from __future__ import annotations

from jetplane.config import Config
from jetplane.errors import PeerError
from jetplane.sources import files
from jetplane.sources.records import Claims, Placed, Record


class Admission:
    """Takes records one by one, the earlier before the later."""

    def __init__(self, config: Config) -> None:
        """Begin with the records in the node's files. Raises PeerError when those cannot be used as they are."""
        self.taken: list[Record] = []
        self.refused: list[str] = []
        self._claims = Claims(config)
        there = files.read(config.peers.path)
        for item in there:
            self._claims.take(item)
        self._room = config.peers.max - len(there)

    def offer(self, item: Placed) -> None:
        """Take a record, or note why not."""
        if len(self.taken) >= self._room:
            self.refuse(f"{item.place}: there is no more room: peers.max is reached")
            return
        try:
            self._claims.take(item)
        except PeerError as error:
            self.refuse(str(error))
        else:
            self.taken.append(item.record)

    def refuse(self, reason: str) -> None:
        """Note one that never became a record."""
        self.refused.append(reason)
