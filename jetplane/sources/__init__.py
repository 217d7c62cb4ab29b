"""Where the wanted peers come from."""

from __future__ import annotations

from jetplane.config import Config
from jetplane.model import PublicKey
from jetplane.sources.directory import Directory
from jetplane.sources.interface import Source


def open_source(config: Config, own_keys: frozenset[PublicKey] = frozenset()) -> Source:
    """Open the source that `peers.source` names; `own_keys` are the node's own public keys, as far as they are known.

    Raises PeerError when the files' place cannot be watched, or ConfigurationError when a credential cannot be read;
    a NATS that does not answer is no error.
    """
    if config.peers.source == "nats":
        from jetplane.sources.nats import Bucket  # costs memory that a node with files need not spend

        return Bucket(config, own_keys)
    return Directory(config, own_keys)
