"""Carries test reports from the pytest in a guest to the one on the host.

Inside, this module is a plugin (`-p tests.vm.reports`) that writes one JSON object a line, as soon as it happens:
{"collected": N}, {"started": "tests/…::test_…"}, {"report": {…}}, and last {"finished": exit status}.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


class Writer:
    """Writes what happens in the guest. Flushed line by line: a guest may hang or die at any time."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config = config
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def _write(self, **line: Any) -> None:
        self._file.write(json.dumps(line) + "\n")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._write(collected=len(session.items))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(uncollected=report.nodeid, why=report.longreprtext)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(started=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        serialised = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._write(report=serialised)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._write(finished=int(exitstatus))


def pytest_configure(config: pytest.Config) -> None:
    """Write reports when the guest's script says where to."""
    if path := os.environ.get("JETPLANE_REPORTS"):
        config.pluginmanager.register(Writer(config, Path(path)))


class Reader:
    """Tells the host's pytest what happened in a guest, as if it had happened here."""

    def __init__(self, session: pytest.Session, label: str) -> None:
        self._session = session
        self._label = label
        self.running = "before the first test"
        self.exit_status: int | None = None
        self.uncollected: list[str] = []

    def take(self, text: str) -> None:
        """Pass one line on. Tests of the guest get `label/` before their name."""
        line = json.loads(text)
        match line:
            case {"collected": int(count)}:
                self._session.testscollected += count  # so that the progress shown never passes 100 %
            case {"started": str(name)}:
                self.running = f"in {name}"
            case {"uncollected": str(name), "why": str(why)}:
                self.uncollected.append(f"{name}: {why}")
            case {"report": dict(serialised)}:
                hook = self._session.config.hook
                report = hook.pytest_report_from_serializable(config=self._session.config, data=serialised)
                report.nodeid = f"{self._label}/{report.nodeid}"
                report.location = (f"{self._label}/{report.location[0]}", *report.location[1:])
                hook.pytest_runtest_logreport(report=report)
            case {"finished": int(status)}:
                self.running = "after the last test"
                self.exit_status = status
