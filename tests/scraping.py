"""What tests of the scrape page and of dashboards share: a page with every metric, a server that shows it, and questions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from adumbra.schema.own_metrics import Reading
from adumbra.schema.records import Accounts, Losses
from adumbra.schema.sizing import Machine
from adumbra.store.scrape import CONTENT_TYPE, LatestIntervals
from adumbra.telemetry import Requests, Telemetry, of_accounts, of_machines, of_queue, of_sends

HOSTILE = 'a"b\\c\nd{e}=é\t#'


def scrape_config(address: str) -> str:
    """Of a Prometheus: the page at the address, once a second."""
    return (
        "scrape_configs: [{job_name: adumbra, scrape_interval: 1s, honor_labels: true, "
        f"static_configs: [{{targets: ['{address}']}}]}}]\n"
    )


def full_telemetry(latest: LatestIntervals, *, busy: bool = False) -> Telemetry:
    """A Telemetry all of whose metrics are told. busy: each look is another request, too."""
    accounts = Accounts(
        100, {"parsed": 90, "not_ip": 6, "ip_malformed": 4}, 80, 7, 3, 2, 1, 1, 1, Losses(dropped=5, freezes=2, filtered=3),
        4, 5, 6, 7, {"datagrams": 9, "sets_waiting": 2},
    )  # fmt: skip
    telemetry = Telemetry("1.2.3")
    telemetry.watch(latest.readings)
    telemetry.watch(lambda: of_accounts("shop", accounts))
    telemetry.watch(lambda: of_sends(f"prometheus+http://{HOSTILE}", Sent()))
    telemetry.watch(lambda: of_queue("influxdb+http://host:8086/db", Queued(), bound_bytes=10**9, oldest_age_s=12.5))
    telemetry.watch(lambda: of_machines("shop", {vm: Machine(4, 16, 1000, 100) for vm in ("web-1", "db")}))
    requests = Requests()

    def ask() -> None:
        requests.begun()
        requests.ended("GET", "/v1/networks/{name}", 200, 0.004)

    def looked_at() -> list[Reading]:
        if busy:
            ask()
        return requests.readings()

    ask()
    telemetry.watch(looked_at)
    telemetry.watch(of_server)
    return telemetry


def of_server() -> list[Reading]:
    """What a server tells of its networks, its children and its loops."""
    own = ("networks_owned", "taps_running", "tap_restarts_total", "workers_running", "jobs_begun_total")
    loop = ("loop_runs_total", "loop_failures_total", "loop_up", "loop_seconds")
    return [
        Reading("adumbra_networks", 2, ("ready",)),
        Reading("adumbra_sources", 1, ("server", "running")),
        Reading("adumbra_jobs", 3, ("train", "done")),
        *(Reading(f"adumbra_live_{name}", 1, ("shop",)) for name in ("machines", "up", "rows_total", "failures_total")),
        Reading("adumbra_live_left_out_total", 1, ("shop", "late")),
        *(Reading(f"adumbra_{name}", 1) for name in own),
        *(Reading(f"adumbra_{name}", 1, ("taps",)) for name in loop),
    ]


class Sent:
    requests, samples, body_bytes, retries = 3, 500, 10_000, 1
    dropped: Mapping[str, int] = {"too_old": 7}


class Queued:
    waiting, waiting_bytes, failures, refused, dropped, damaged, trouble = 3, 9_000, 2, 1, 4, 0, "it can't be reached"


@contextmanager
def serving(read: Callable[[], bytes]) -> Iterator[str]:
    """The address at which a page is served, written anew for each request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = read()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def ask(url: str, query: str) -> list[dict[str, Any]]:
    answer = httpx.post(f"{url}/api/v1/query", data={"query": query}).raise_for_status().json()
    return list(answer["data"]["result"])
