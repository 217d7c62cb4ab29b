"""Gathers the facts: looks at every place of the inventory, changing nothing."""

from __future__ import annotations

from jetplane import lock
from jetplane.audit import dataplane, files, kernel, listeners, logs, memory, processes, release, sessions
from jetplane.audit.limits import Limits
from jetplane.config import Config
from jetplane.privacy.facts import Facts


def gather(config: Config, limits: Limits) -> Facts:
    """Look at the node of this configuration. Raises JetplaneError when there is no data plane."""
    plane = dataplane.gather(config)
    controller = lock.holder(config.run_directory)
    listening = listeners.listening()
    found = processes.find(config, controller, listening)
    known = files.known_addresses(config)
    return Facts(
        dataplane=plane,
        kernel=kernel.gather(config),
        processes=processes.gather(found, config, known),
        memory=memory.gather(found, config, limits),
        idle=sessions.gather(config, limits),
        logs=logs.gather(found, known, limits),
        run_files=files.gather(config.run_directory),
        run_directory=str(config.run_directory),
        run_file_system=files.file_system(config.run_directory),
        release=release.gather(config, listening, limits),
    )
