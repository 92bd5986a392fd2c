"""Work told from response times, on made M/M/k servers whose work is known: inside what is said, and never told as sure."""

from __future__ import annotations

import numpy as np
import pytest

from adumbra.emulate.calibration.regression import INNER_80
from adumbra.emulate.calibration.response_times import Responses, fit_responses
from adumbra.emulate.roles import RolePrior, bundled_priors

WOKEN = 0.6  # of the requests, those that come alone


def server(seed: int, work_s: float, servers: int, load: float, waits_s: float = 0.0) -> Responses:
    """Medians of response times in 200 intervals of 10 s at an M/M/k server whose load rises to `load`."""
    rng = np.random.default_rng(seed)
    requests, medians = [], []
    free = np.zeros(servers)
    for step in range(200):
        rate = load * servers / work_s * (0.2 + 0.8 * step / 200)
        count = min(int(rng.poisson(rate * 10)), 3000)
        times = step * 10 + np.sort(rng.random(count)) * 10
        response = np.empty(count)
        for i, (at, service) in enumerate(zip(times, rng.exponential(work_s, count), strict=True)):
            first = int(free.argmin())
            free[first] = max(free[first], at) + service
            response[i] = free[first] - at + waits_s
        requests.append(count)
        medians.append(float(np.median(response)) * 1e3 if count else np.nan)
    total = float(sum(requests))
    totals = np.array([2000.0, total / 4, total, total * 300, total * 2000, total * 6, total * WOKEN])
    return Responses(np.array(requests, np.float64), np.array(medians), totals)


def work_of(role: RolePrior) -> float:
    """What a request of `server` costs in all, by the prior."""
    cpu = role.cpu
    return (
        cpu.connection_s / 4
        + cpu.request_s
        + 300 * cpu.byte_in_s
        + 2000 * cpu.byte_out_s
        + 6 * cpu.packet_s
        + WOKEN * cpu.wake_s
    )


def prior(name: str = "generic") -> RolePrior:
    return bundled_priors().prior(name)


@pytest.mark.parametrize(
    ("times_prior", "servers", "load"), [(0.2, 1, 0.05), (1, 2, 0.3), (3, 4, 0.2), (6, 1, 0.5), (6, 4, 0.7)]
)
def test_the_true_work_lies_inside_what_is_said(times_prior: float, servers: int, load: float) -> None:
    work_s = times_prior * work_of(prior())
    seen = server(3, work_s, servers, load)
    fit = fit_responses(seen, prior())
    assert not isinstance(fit, str)
    per_request = seen.totals / seen.totals[2]
    mean = float((per_request * np.array(fit.mean))[1:].sum())
    before = float((per_request * np.array(fit.before))[1:].sum())
    sd = float(np.sqrt(np.log1p(fit.covariance[2][2] / fit.mean[2] ** 2)))
    assert abs(np.log(work_s / mean)) <= INNER_80 * sd
    if not 0.4 < times_prior < 2.5:
        assert abs(np.log(work_s / mean)) < abs(np.log(work_s / before)), "nearer to the truth than the prior was"
    assert sd > 0.3, "and never told as sure"


def test_waiting_for_others_is_not_taken_for_work_in_full() -> None:
    with_waits = fit_responses(server(4, 2e-3, 2, 0.3, waits_s=5e-3), prior())
    without = fit_responses(server(4, 2e-3, 2, 0.3), prior())
    assert not isinstance(with_waits, str)
    assert not isinstance(without, str)
    assert with_waits.mean[2] < 4.5 * without.mean[2]


def test_what_is_used_at_rest_stays_as_it_was() -> None:
    fit = fit_responses(server(5, 1e-2, 1, 0.2), prior())
    assert not isinstance(fit, str)
    assert fit.mean[0] == fit.before[0]
    assert fit.covariance[0][0] == 0


def test_without_answers_it_says_so() -> None:
    nothing = Responses(np.ones(100), np.full(100, np.nan), np.ones(7))
    assert fit_responses(nothing, prior()) == "responses were seen in 0 intervals, and 20 are the least"
