"""Asks Prometheus by its HTTP API, v1: https://prometheus.io/docs/prometheus/latest/querying/api/."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Final

from jetplane.errors import JetplaneError

PATIENCE_S: Final = 60.0

Labels = tuple[str, ...]
"""The values of the labels that were asked for, in that order; "" for one that is not there."""


class PrometheusError(JetplaneError):
    """Prometheus cannot be asked, or does not answer as it should."""


class Prometheus:
    """One Prometheus, at `http://host:port` or `https://host:port`, with a path where it has one."""

    def __init__(self, url: str) -> None:
        """Raises PrometheusError for what is no such URL."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise PrometheusError("the URL of Prometheus cannot be used", hint="give one like http://127.0.0.1:9090")
        # Without credentials, which a URL may hold.
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        if "@" in parts.netloc:
            raise PrometheusError(
                f"{self.shown}: a password cannot be part of the URL", hint="ask from inside, without"
            )
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def now(self, query: str, labels: Labels, at: int) -> dict[Labels, float]:
        """An instant query at a Unix time: labels → value."""
        found = self._ask("query", {"query": query, "time": at}, "vector")
        return {_labels(series, labels): float(series["value"][1]) for series in found}

    def course(self, query: str, labels: Labels, start: int, end: int, step: int) -> dict[Labels, dict[int, float]]:
        """A range query: labels → Unix time → value, at `start` and each `step` seconds later."""
        wanted = {"query": query, "start": start, "end": end, "step": step}
        return {
            _labels(series, labels): {int(at): float(value) for at, value in series["values"]}
            for series in self._ask("query_range", wanted, "matrix")
        }

    def _ask(self, path: str, wanted: Mapping[str, object], kind: str) -> Iterator[Mapping[str, Any]]:
        url, body = f"{self.shown}/api/v1/{path}", urllib.parse.urlencode(wanted).encode()
        try:
            with self._open(url, body, timeout=PATIENCE_S) as answer:
                told = json.load(answer)
            if told["status"] != "success" or told["data"]["resultType"] != kind:
                raise ValueError
        except urllib.error.HTTPError as error:
            raise PrometheusError(f"{self.shown}: refuses the query: {_reason(error)}") from None
        except (urllib.error.URLError, TimeoutError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise PrometheusError(
                f"{self.shown}: Prometheus cannot be reached: {words}", hint="does it run there? --prometheus names it"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise PrometheusError(f"{self.shown}: is not Prometheus: its answer is none of its API") from None
        return iter(told["data"]["result"])


def _labels(series: Mapping[str, Any], wanted: Labels) -> Labels:
    return tuple(series["metric"].get(label, "") for label in wanted)


def _reason(error: urllib.error.HTTPError) -> str:
    """What Prometheus says, in one line; of another server the status alone."""
    try:
        return " ".join(str(json.load(error)["error"]).split())
    except (ValueError, KeyError, TypeError, OSError):
        return f"HTTP status {error.code}"
