"""Prometheus' query API: questions in PromQL, answers of bounded size as arrays, anything else refused. Knows no metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import from_json

from adumbra.http_asking import Answer
from adumbra.schema.errors import StoreError
from adumbra.schema.records import Floats, Ints
from adumbra.store.http_access import StoreAsker

MOST_STEPS = 11_000
"""The most points of a series that Prometheus gives in one answer."""
FOREVER_MS = 4_102_444_800_000
"""The year 2100."""
_POINT_BYTES, _SERIES_BYTES, _BESIDE_BYTES = 64, 4096, 1 << 20
_NAMES_BYTES = 64 << 20
_PATIENCE_S = 5.0
_NO_NUMBERS = {None: np.nan, "StaleNaN": np.nan}  # how VictoriaMetrics writes them


class TooMuchError(StoreError):
    """The server won't look at that many samples for one question."""


@dataclass(frozen=True, slots=True)
class Points:
    """A series of an answer. times_ms: int64[n], since the epoch; values: float64[n]."""

    labels: Mapping[str, str]
    times_ms: Ints
    values: Floats


class Api:
    """The query API at an address (which `/api/v1/...` follows). Raises StoreError for answers that aren't of its form."""

    def __init__(self, client: StoreAsker, url: str) -> None:
        self._client, self._url = client, url
        self._patience_s = min(_PATIENCE_S, client.access.give_up_s)  # somebody may be waiting

    def range(self, expression: str, first_ms: int, step_ms: int, steps: int, series: int) -> list[Points]:
        """The expression at so many times, of about so many series."""
        form = {
            "query": expression, "start": _time(first_ms), "end": _time(first_ms + (steps - 1) * step_ms),
            "step": _time(step_ms), "nocache": "1",
        }  # fmt: skip
        result = self._result("query_range", form, series, series * steps)
        return [self._points(each, "values") for each in result]

    def instant(self, expression: str, at_ms: int, series: int, points: int = 0) -> list[Points]:
        """The expression at a time, of about so many series: a point of each, or of a range selector all there are."""
        form = {"query": expression, "time": _time(at_ms), "nocache": "1"}
        result = self._result("query", form, series, points or series)
        return [self._points(each, "values" if "values" in each else "value") for each in result]

    def label_values(self, label: str, match: str) -> list[str]:
        """All values that a label has in series which match, perhaps also of some that were deleted."""
        form = {"match[]": match, "start": "0", "end": _time(FOREVER_MS)}
        url = f"{self._url}/api/v1/label/{label}/values"
        data = self._data(self._client.ask("GET", url, form=form, most_bytes=_NAMES_BYTES, give_up_s=self._patience_s))
        if not isinstance(data, list) or not all(isinstance(each, str) for each in data):
            raise self._strange("names that are no list of text")
        return data

    def delete(self, match: str | None) -> bool:
        """Deletes what matches; without it, asks only. Whether the server lets us."""
        form = {} if match is None else {"match[]": match}
        url = f"{self._url}/api/v1/admin/tsdb/delete_series"
        answer = self._client.ask("POST", url, form=form, give_up_s=self._patience_s, wanted=_switched_off)
        if _switched_off(answer):
            return False
        if match is None:  # that nothing is named is what is wrong with it then
            return answer.status in {200, 204, 400, 422} and "match" in self._client.told(answer)
        return answer.good

    def _result(self, path: str, form: Mapping[str, str | list[str]], series: int, points: int) -> list[dict[str, Any]]:
        most = _BESIDE_BYTES + series * _SERIES_BYTES + points * _POINT_BYTES
        url = f"{self._url}/api/v1/{path}"
        data = self._data(self._client.ask("POST", url, form=form, most_bytes=most, give_up_s=self._patience_s))
        result = data.get("result") if isinstance(data, dict) else None
        if not isinstance(result, list) or not all(isinstance(each, dict) for each in result):
            raise self._strange("no list of series")
        return result

    def _data(self, answer: Answer) -> Any:
        try:
            told: Any = from_json(answer.body) if answer.good or answer.body[:1] == b"{" else {}
        except ValueError as error:
            raise self._strange("what is no JSON") from error
        if not isinstance(told, dict):
            raise self._strange("no JSON object")
        if not answer.good or told.get("status") != "success":
            said = self._client.hidden(str(told.get("error", ""))[:200]) or self._client.told(answer)
            kind = TooMuchError if answer.status == 422 else StoreError
            raise kind(f"{self._url} could not answer a query ({answer.status} {said})", "is it the server's query API?")
        return told.get("data")

    def _points(self, series: Mapping[str, Any], kind: str) -> Points:
        try:
            pairs = [series[kind]] if kind == "value" else series[kind]
            labels = series.get("metric", {})
            times = [float(time) for time, _ in pairs]
            values = [float(value if value not in _NO_NUMBERS else "nan") for _, value in pairs]
            if not all(isinstance(text, str) for text in labels.values()):
                raise TypeError
            numbers, times_s = np.array(values), np.array(times)
            numbers[~np.isfinite(numbers)] = np.nan  # nothing that we store is infinite
            if not np.all(np.abs(times_s) < 1e12):
                raise ValueError
            return Points(labels, np.rint(times_s * 1000).astype(np.int64), numbers)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._strange("a series that is none") from error

    def _strange(self, what: str) -> StoreError:
        return StoreError(f"{self._url} answers with {what}", "is it the server's query API?")


def _time(ms: int) -> str:
    """Seconds, exactly."""
    return f"{ms // 1000}.{ms % 1000:03d}"


def _switched_off(answer: Answer) -> bool:
    """Whether Prometheus says that its admin API is: by 503 or 500, which would otherwise be worth another try."""
    return answer.status in {500, 503} and b"admin" in answer.body.lower()
