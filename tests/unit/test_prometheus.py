"""The fleet's rules, by Prometheus's own tool: they parse, mean what they say, and name only metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from jetplane.metrics.manifest import QUANTITIES, manifest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
RULES = DEPLOY / "jetplane.rules.yml"
TESTS = ROOT / "tests" / "prometheus" / "regions.yml"

_RECORDED = re.compile(r"^\s*- record: (\S+)$", re.MULTILINE)
_NAMED = re.compile(r"\b(?:(?:region|instance):)?jetplane_[a-z_]+(?::[a-z_]+)?")


def promtool(*arguments: str | Path, directory: Path) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=directory, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def beside_the_rules(directory: Path) -> Path:
    """A copy of the rules where their tests look for them."""
    shutil.copy(RULES, directory)
    return Path(shutil.copy(TESTS, directory))


def test_the_rules_parse(tmp_path: Path) -> None:
    assert "rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", RULES, directory=tmp_path)


def test_the_rules_mean_what_they_say(tmp_path: Path) -> None:
    promtool("test", "rules", beside_the_rules(tmp_path), directory=tmp_path)


def test_an_error_bar_that_adds_up_deviations_would_be_noticed(tmp_path: Path) -> None:
    tests = beside_the_rules(tmp_path)
    rules = tmp_path / RULES.name
    wrong = rules.read_text().replace("sqrt(sum by (region) (", "(sum by (region) (").replace(" ^ 2 and", " and")
    rules.write_text(wrong)
    done = subprocess.run(
        ["promtool", "test", "rules", tests], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and "1.64E+02" in done.stdout + done.stderr


def test_the_example_of_a_scrape_configuration_is_one(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    shutil.copy(DEPLOY / "scrape.yml", tmp_path)
    promtool("check", "config", "--syntax-only", "scrape.yml", directory=tmp_path)


def test_rules_and_dashboard_name_only_what_there_is() -> None:
    recorded = set(_RECORDED.findall(RULES.read_text()))
    assert len(recorded) == len(_RECORDED.findall(RULES.read_text()))
    for file in (RULES, DEPLOY / "dashboard.json"):
        named = set(_NAMED.findall(file.read_text()))
        assert named - recorded - manifest().keys() == set(), f"{file.name} names what nobody tells"


def test_every_figure_is_summed_up_by_region_with_its_error_bar() -> None:
    recorded = set(_RECORDED.findall(RULES.read_text()))
    text = RULES.read_text()
    for quantity, (name, _) in QUANTITIES.items():
        assert {f"region:{name}:sum", f"region:{name}:stddev"} <= recorded
        assert f'quantity="{quantity}"' in text


def test_the_dashboard_is_one() -> None:
    board = json.loads((DEPLOY / "dashboard.json").read_text())
    assert board["title"] == "jetplane"
    assert [panel["id"] for panel in board["panels"]] == list(range(1, len(board["panels"]) + 1))
    assert all(panel["targets"] and panel["description"] for panel in board["panels"])
