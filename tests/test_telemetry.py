"""A process' log shows no secrets and fits its reader; its numbers survive what they are of, and one broken part."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from prometheus_client import generate_latest
from pydantic import SecretStr

from adumbra.schema.own_metrics import OWN_BY_NAME, OWN_METRICS, Reading
from adumbra.schema.records import Accounts, Losses
from adumbra.telemetry import Telemetry, of_accounts, set_up_log, without_secrets


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = (structlog.get_config(), list(root.handlers), root.level)
    yield
    structlog.configure(**before[0])
    root.handlers[:] = before[1]
    root.setLevel(before[2])


def logged(level: str = "info", format: str = "auto", out: io.StringIO | None = None, **entry: Any) -> str:
    stream = Terminal() if out is None else out
    set_up_log(level, format, stream)
    structlog.get_logger("test").warning("the store refuses samples", **entry)
    return stream.getvalue()


class TestLog:
    def test_a_terminal_gets_lines(self) -> None:
        line = logged(store="http://host:9090", dropped={"duplicate": 3}, said="two words")
        assert line[2] == line[5] == ":"
        told = 'the store refuses samples  store=http://host:9090  dropped="{\'duplicate\': 3}"  said="two words"\n'
        assert line[9:] == f"warning {told}"

    def test_a_pipe_gets_json(self) -> None:
        entry = json.loads(logged(out=io.StringIO(), samples=3, share=float("nan"), path=sys.path[:0], od=b"\xff"))
        assert entry.pop("timestamp").endswith("Z")
        assert entry == {
            "event": "the store refuses samples",
            "level": "warning",
            "samples": 3,
            "share": "nan",
            "path": [],
            "od": "b'\\xff'",
        }

    def test_the_setting_stands_above_what_is_guessed(self) -> None:
        assert json.loads(logged(format="json"))["level"] == "warning"
        assert "warning the store" in logged(format="lines", out=io.StringIO())

    def test_less_than_the_level_is_not_logged(self) -> None:
        assert logged("error") == ""

    def test_nothing_steers_the_terminal(self) -> None:
        line = logged(said="\x1b[2J\r\nroot#\u202e", event_of="\x9b")
        assert line.count("\n") == 1
        assert line[:-1].isprintable()
        assert r"\x1b[2J\r\nroot#\u202e" in line

    @pytest.mark.parametrize("format", ["lines", "json"])
    def test_an_exception_is_told_without_its_secrets(self, format: str) -> None:
        stream = io.StringIO()
        set_up_log("info", format, stream)
        try:
            raise ValueError("can't reach http://me:hunter2@host/?token=abc")
        except ValueError:
            structlog.get_logger().exception("failed")
            logging.getLogger("library").exception("failed, too")
        told = stream.getvalue()
        assert told.count("ValueError: can't reach http://***@host/?token=***") == 2
        assert told.count("Traceback") == 2
        assert "hunter2" not in told

    def test_libraries_log_the_same_way_and_only_what_matters(self) -> None:
        stream = io.StringIO()
        set_up_log("debug", "json", stream)
        logging.getLogger("httpx").info("HTTP Request: GET http://u:hunter2@host")
        logging.getLogger("httpx").warning("gave up on %s", "http://u:hunter2@host")
        entry = json.loads(stream.getvalue())
        assert (entry["event"], entry["level"]) == ("gave up on http://***@host", "warning")

    @pytest.mark.parametrize(
        "key", ["password", "Authorization", "api_key", "API-KEY", "token", "pw", "client_secret", "cookie"]
    )
    def test_what_is_secret_by_its_name_is_hidden_however_deep(self, key: str) -> None:
        stream = io.StringIO()
        told = logged(format="json", out=stream, **{key: "hunter2", "deep": {"a": [{key: ["hunter2"], "kept": 1}]}})
        assert "hunter2" not in told
        assert json.loads(told)["deep"] == {"a": [{key: "***", "kept": 1}]}

    def test_a_secret_object_stays_one(self) -> None:
        assert "hunter2" not in logged(what=SecretStr("hunter2"))

    @pytest.mark.parametrize(
        ("text", "want"),
        [
            ("prometheus+https://me:pa/ss@wo?rd@host:9090/x", "prometheus+https://***@host:9090/x"),
            ("from 'http://u:p@h' to http://other/y", "from 'http://***@h' to http://other/y"),
            ("http://h/q?u=me&p=hunter2&db=x&api_key=1#f", "http://h/q?u=me&p=***&db=x&api_key=***#f"),
            ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
            ("basic facts; write to me@example.org", "basic facts; write to me@example.org"),
        ],
    )
    def test_secrets_in_text(self, text: str, want: str) -> None:
        assert without_secrets(text) == want


def readings(telemetry: Telemetry) -> dict[tuple[str, ...], float]:
    return {(each.name, *each.labels): each.value for each in telemetry.readings()}


OFFERED, SPOOL = "adumbra_packets_offered_total", "adumbra_spool_records"


class TestTelemetry:
    def test_tells_its_version_and_what_every_process_does(self) -> None:
        page = generate_latest(Telemetry("1.2.3").registry).decode()
        assert 'adumbra_build_info{version="1.2.3"} 1.0\n' in page
        for name in (
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "python_info",
            "python_gc_collections_total",
        ):
            assert f"\n{name}" in page

    def test_processes_share_nothing(self) -> None:
        first, second = Telemetry("1"), Telemetry("2")
        first.watch(lambda: [Reading(OFFERED, 1, ("shop",))])
        assert (OFFERED, "shop") not in readings(second)

    def test_counters_go_on_when_what_they_are_of_ends(self) -> None:
        telemetry, counted = Telemetry("1"), [10.0]

        def read() -> list[Reading]:
            return [Reading(OFFERED, counted[0], ("shop",)), Reading(SPOOL, 5, ("s",))]

        end = telemetry.watch(read)
        counted[0] = 12.0
        end()
        end()
        assert readings(telemetry)[OFFERED, "shop"] == 12
        assert (SPOOL, "s") not in readings(telemetry)
        counted[0] = 1.0
        telemetry.watch(read)
        assert readings(telemetry)[OFFERED, "shop"] == 13

    def test_several_of_the_same_labels_become_one(self) -> None:
        telemetry = Telemetry("1")
        for value in (3, 4):
            telemetry.watch(lambda value=value: [Reading(OFFERED, value, ("a",)), Reading(SPOOL, value, ("s",))])
        assert (readings(telemetry)[OFFERED, "a"], readings(telemetry)[SPOOL, "s"]) == (7, 4)

    def test_one_broken_part_does_not_take_the_page_away(self) -> None:
        telemetry = Telemetry("1")
        telemetry.watch(lambda: [Reading(OFFERED, 1, ("shop",))])
        telemetry.watch(lambda: [Reading(OFFERED, 1, ("a", "b"))])
        telemetry.watch(lambda: [Reading("unknown", 1, ())])
        telemetry.watch(lambda: [1 / 0])  # type: ignore[list-item]
        assert readings(telemetry) == {
            ("adumbra_build_info", "1"): 1, (OFFERED, "shop"): 1, ("adumbra_readings_failed_total",): 3,
        }  # fmt: skip

    def test_what_ended_is_remembered_within_bounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("adumbra.telemetry.ENDED_LABELS", 2)
        telemetry = Telemetry("1")
        for name in ("a", "b", "c", "a"):
            telemetry.watch(lambda name=name: [Reading(OFFERED, 1, (name,))])()
        found = readings(telemetry)
        assert [found.get((OFFERED, name)) for name in "abc"] == [2, 1, None]

    def test_every_packet_is_told_once(self) -> None:
        outcomes = {"parsed": 90, "not_ip": 6, "ip_malformed": 3, "unknown_link": 1, "elsewhere": 40}
        accounts = Accounts(140, outcomes, 80, 7, 3, 2, 1, 4, 5, Losses(dropped=11, filtered=8))
        told = {(each.name, *each.labels): each.value for each in of_accounts("shop", accounts)}
        lost = {key[-1]: value for key, value in told.items() if key[0] == "adumbra_packets_lost_total"}
        ignored = {key[-1]: value for key, value in told.items() if key[0] == "adumbra_packets_ignored_total"}
        assert lost == {"ip_malformed": 3, "tap": 11, "late": 2, "untracked": 1, "transport_unread": 4, "uncounted": 5}
        assert ignored == {"not_ip": 6, "unknown_link": 1, "foreign": 7, "unclaimed": 3, "filtered": 8}
        assert told["adumbra_packets_offered_total", "shop"] == 140


def test_the_catalogue_hangs_together() -> None:
    assert len(OWN_BY_NAME) == len(OWN_METRICS)
    for metric in OWN_METRICS:
        assert metric.help.endswith(".")
        assert metric.name.startswith("adumbra_")
        assert metric.name.endswith("_total") == (metric.kind.value == "counter")


def test_importing_it_loads_neither_log_nor_metrics_library() -> None:
    heavy = "{'structlog', 'prometheus_client', 'stamina', 'numpy'} & set(sys.modules)"
    code = f"import adumbra.telemetry, sys; sys.exit(' '.join({heavy}) or 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
