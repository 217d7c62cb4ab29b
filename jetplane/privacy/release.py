"""Judges what leaves the node as metrics, by its own exporter and by others'."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from jetplane.privacy.facts import Facts, Metric, Scrape
from jetplane.privacy.question import Answer, Question, answer

_SAMPLE = re.compile(r'(?P<name>[a-z][a-z0-9_]*)(\{(?P<label>[a-z_]+)="(?P<value>[^"\\]*)"\})? (?P<number>\S+)')


def _metrics(facts: Facts) -> Answer:
    release = facts.release
    broken = [finding for scrape in release.scrapes for finding in _findings(scrape, release.manifest)]
    if release.trouble:
        broken.append(release.trouble)
    looked = f"{len(release.scrapes)} scrapes, line by line, against a manifest of {len(release.manifest)} metrics"
    well = "names, labels and values of the manifest" if release.enabled else "the exporter is off"
    return answer(looked, broken, well, "restart the node, and report this")


def _findings(scrape: Scrape, manifest: Mapping[str, Metric]) -> Iterator[str]:
    for number, line in enumerate(scrape.first.decode("utf-8", "replace").splitlines(), start=1):
        if line and not line.startswith("#") and (wrong := _wrong(line, manifest)):
            yield f"{scrape.format}, line {number}: {wrong}"


def _wrong(line: str, manifest: Mapping[str, Metric]) -> str:
    """What is wrong with a sample, without repeating what may be anything."""
    sample = _SAMPLE.fullmatch(line)
    if sample is None:
        return "no sample of one label, or it has a timestamp"
    metric = manifest.get(sample["name"])
    if metric is None:
        return f"{sample['name']} is not of the manifest"
    if (sample["label"] or "") != metric.label or (metric.label and not metric.allows(sample["value"])):
        return f"{sample['name']} has a label that the manifest does not allow"
    try:
        return "" if math.isfinite(float(sample["number"])) else f"{sample['name']} is no finite number"
    except ValueError:
        return f"{sample['name']} is no number"


def _cached(facts: Facts) -> Answer:
    same = [scrape for scrape in facts.release.scrapes if not scrape.changed]
    broken = [f"{scrape.format}: two scrapes of one release differ" for scrape in same if scrape.first != scrape.second]
    if facts.release.trouble:
        broken.append(facts.release.trouble)
    well = "the same bytes" if facts.release.enabled else "the exporter is off"
    looked = f"two scrapes of one release in {len(same)} formats"
    return answer(looked, broken, well, "restart the node, and report this: scraping faster must average nothing away")


PROMISED_EPSILON = 1.0
"""At delta 1e-9, of a peer's UTC day; what metrics.noise is made for."""
_EPSILON = re.compile(rb"^jetplane_privacy_epsilon (\d+(?:\.\d+)?(?:e[+-]\d+)?)$", re.MULTILINE)


def _budget(facts: Facts) -> Answer:
    told = [float(number) for scrape in facts.release.scrapes for number in _EPSILON.findall(scrape.first)]
    most = max(told, default=0.0)
    broken = [f"epsilon is {most:g}, not {PROMISED_EPSILON:g}"] if most > PROMISED_EPSILON else []
    if facts.release.trouble:
        broken.append(facts.release.trouble)
    well = f"epsilon {most:g}" if told else "no figures with noise are released"
    hint = "remove metrics.active_epoch and metrics.volume_epoch from the configuration: they are for labs"
    return answer("what the node says that all its figures tell of a peer's UTC day", broken, well, hint)


def _co_exporters(facts: Facts) -> Answer:
    looked = f"/metrics of {facts.release.listeners} other listeners in this namespace"
    hint = (
        "leave the node's interfaces out (node_exporter: --collector.netdev.device-exclude), stop WireGuard exporters"
    )
    return answer(looked, facts.release.co_exporters, "none tells exact traffic of the node's interfaces", hint)


QUESTIONS = (
    Question("metrics", "metrics have the names, labels and values of the manifest, and no others", _metrics),
    Question("metrics-cached", "scraping more often tells nothing more", _cached),
    Question("privacy-budget", "figures together are (1, 1e-9)-differentially private for a peer's UTC day", _budget),
    Question("co-exporters", "no other exporter tells the exact traffic of the node", _co_exporters),
)
