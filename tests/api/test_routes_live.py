"""What was predicted against what was measured, by the API; and calibration by live readings as a job."""

from __future__ import annotations

import numpy as np
import pytest
from tests.api import lives
from tests.api.serving import Serving

from adumbra.schema.records import MetricBatch, Origin
from adumbra.schema.units import format_time


def at(second: int) -> str:
    return format_time((lives.START_S + second) * 10**9)


@pytest.fixture(scope="module")
def measured(lived: Serving) -> Serving:
    """shop's web-1 uses twice what was predicted; of the others nothing is measured."""
    made = lives.batch("shop")
    columns = {name: 2 * made.columns[name][:, :1] for name in ("cpu_seconds", "rx_bytes", "tx_bytes")}
    sided = np.zeros((lives.STEPS, 1), np.bool_)
    lived.workspace.metrics.write(MetricBatch("shop", 1.0, ("web-1",), made.start_ns, columns, sided, "libvirt", Origin.LIVE))
    return lived


def test_predicted_stands_beside_measured(measured: Serving) -> None:
    told = measured.viewer("shop").get("/v1/networks/shop/live").json()
    assert (told["start"], told["end"], told["step_s"], told["learned_until"]) == (at(0), at(300), 10.0, None)
    assert [(vm["vm"], vm["word"]) for vm in told["vms"][1:]] == [("web-2", "not measured"), ("db", "not measured")]
    cpu = told["vms"][0]["scores"][0]
    assert (cpu["resource"], cpu["paired"], cpu["only_measured"]) == ("cpu_cores", 30, 0)
    assert cpu["measured"]["mean"] == pytest.approx(2 * cpu["predicted"]["mean"])
    assert cpu["error"] == pytest.approx(0.5)
    assert cpu["promise"]["shortfall"] == told["shortfall"]
    assert set(cpu["promise"]["estimate"]) == {"p50", "p90", "p99"}


def test_the_time_and_the_grid_are_asked_for(measured: Serving) -> None:
    viewer = measured.viewer("shop")
    told = viewer.get("/v1/networks/shop/live", params={"last_s": 60, "step_s": 20}).json()
    assert (told["start"], told["steps"], told["step_s"]) == (at(240), 3, 20.0)
    told = viewer.get("/v1/networks/shop/live", params={"since": at(100)}).json()
    assert (told["start"], told["steps"]) == (at(100), 20)
    assert viewer.get("/v1/networks/shop/live", params={"last_s": 1}).status_code == 422
    refused = viewer.get("/v1/networks/shop/live", params={"step_s": 4000})
    assert refused.status_code == 409
    assert "no whole step of 4000 s was measured" in refused.json()["title"] + refused.json().get("detail", "")


def test_what_was_not_measured_is_said_so(measured: Serving) -> None:
    refused = measured.viewer().get("/v1/networks/bare/live")
    assert refused.status_code == 409
    assert "nothing was measured of bare" in str(refused.json())
    assert measured.viewer("shop").get("/v1/networks/bare/live").status_code in {403, 404}


def test_live_readings_calibrate_by_a_job(measured: Serving) -> None:
    asked = {"update": False, "measured_on": "m7i.large"}
    queued = measured.operator("shop").post("/v1/networks/shop/calibration/from-live", json=asked)
    assert queued.status_code == 202
    job = queued.json()
    assert (job["kind"], job["asked"]["usage"], job["asked"]["measured_on"]) == ("calibrate", "live:", "m7i.large")
