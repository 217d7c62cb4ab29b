"""Carries test reports from the pytest in a guest to the one on the host that shows them.

Inside, this plugin writes one JSON object a line, as soon as it happens:
{"started": "tests/…::test_…"}, {"report": {…}}, and last {"finished": exit status}. The test that stands for the guest
takes them along in its own report, so that they come from whichever worker ran it to where results are counted.
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


class Teller:
    """Tells the pytest that shows results what happened in guests, as if it had happened here."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        inner = [told for name, told in report.user_properties if name == _PROPERTY]
        session = self._config.pluginmanager.getplugin("session")
        session.testscollected += len({told["nodeid"] for told in inner})  # the progress shown never passes 100 %
        hook = self._config.hook
        for told in inner:
            hook.pytest_runtest_logreport(report=hook.pytest_report_from_serializable(config=self._config, data=told))


def pytest_configure(config: pytest.Config) -> None:
    """Write reports when the guest's script says where to; take them where results are shown."""
    if path := os.environ.get("JETPLANE_REPORTS"):
        config.pluginmanager.register(Writer(config, Path(path)))
    elif not hasattr(config, "workerinput"):
        config.pluginmanager.register(Teller(config))


_PROPERTY = "in a guest"


class Reader:
    """Takes in what happened in a guest, for the report of the test that stands for it."""

    def __init__(self, test: pytest.Item, label: str) -> None:
        self._test = test
        self._label = label
        self.running = "before the first test"
        self.exit_status: int | None = None
        self.uncollected: list[str] = []

    def take(self, text: str) -> None:
        """Take one line. Tests of the guest get `label/` before their name."""
        line = json.loads(text)
        match line:
            case {"started": str(name)}:
                self.running = f"in {name}"
            case {"uncollected": str(name), "why": str(why)}:
                self.uncollected.append(f"{name}: {why}")
            case {"report": dict(report)}:
                path, number, name = report["location"]
                report |= {
                    "nodeid": f"{self._label}/{report['nodeid']}",
                    "location": (f"{self._label}/{path}", number, name),
                }
                self._test.user_properties.append((_PROPERTY, report))
            case {"finished": int(status)}:
                self.running = "after the last test"
                self.exit_status = status
