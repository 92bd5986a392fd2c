"""What response times, seen in traffic alone, say of a VM's work for a request: little, and so it is said. Pure.

Assumes that a request is answered no sooner than its work is done, so that at low load a response takes at least the service;
the rest of it is waiting, for disks, for other servers, and on the way between the tap and the VM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adumbra.emulate.calibration.regression import INNER_80
from adumbra.emulate.roles import RolePrior
from adumbra.schema.calibration import COSTS, Fit
from adumbra.schema.records import Floats

WORK_SHARE, WORK_SHARE_SD = 0.5, 0.9
"""Of a response time at low load that is the VM's own work: median, and standard deviation of the logarithm. Believed, not
measured: 0.16 to 1.6 with probability 0.8, from a server that waits for others to one that works on once it has answered."""
LEAST_INTERVALS = 20
_LOW = 1 / 3  # of the intervals, those with the fewest requests, count as low load
_MOST_SD = 1.0  # relative; a normal that is wider would be as much a statement about zero


@dataclass(frozen=True, slots=True)
class Responses:
    """What was seen of one VM in intervals: requests and response_ms_p50 float64[T] (NaN: no answer was seen), and what was
    paid for in all of them together: totals float64[COSTS], seconds first.
    """

    requests: Floats
    response_ms_p50: Floats
    totals: Floats


def fit_responses(seen: Responses, prior: RolePrior, core_speed: float = 1.0) -> Fit | str:
    """The prior's costs, times a level between what the prior says of a request's work and what responses let one believe of
    it, each by how sure it is; or why nothing can be said.

    Both are lognormal, so that their product is too. A median response of m ms stands for a mean of m sqrt(1 + cv^2) (lognormal
    service times of coefficient of variation cv). Only a request's own cost and those that come with it move; what is used at
    rest doesn't.
    """
    there = (seen.requests > 0) & (seen.response_ms_p50 > 0)
    if int(there.sum()) < LEAST_INTERVALS:
        return f"responses were seen in {int(there.sum())} intervals, and {LEAST_INTERVALS} are the least"
    requests, response = seen.requests[there], seen.response_ms_p50[there]
    low = requests <= np.quantile(requests, _LOW)
    median_s = float(np.median(response[low])) / 1e3
    costs = np.array([getattr(prior.cpu, name) for name in COSTS])
    moving = np.arange(len(COSTS)) > 0
    believed_s = float((seen.totals * costs)[moving].sum() / max(float(seen.requests.sum()), 1.0))
    if not believed_s > 0:
        return "the role's prior has no work for a request, which responses could correct"
    seen_s = median_s * math.sqrt(1.0 + prior.cpu.service_cv**2) * WORK_SHARE * core_speed
    prior_sd = max(math.hypot(prior.spread.cpu, prior.spread.costs), 0.1)
    weight = prior_sd**2 / (prior_sd**2 + WORK_SHARE_SD**2)
    log_level = weight * math.log(seen_s / believed_s)
    sd = math.sqrt(1.0 / (1.0 / prior_sd**2 + 1.0 / WORK_SHARE_SD**2))
    mean = np.where(moving, costs * math.exp(log_level), costs)
    shared = np.where(moving, mean, 0.0) * min(math.sqrt(math.expm1(sd**2)), _MOST_SD)
    work_s = believed_s * math.exp(log_level)
    share = f"of which {WORK_SHARE:.0%} are believed to be work, give or take a factor of {math.exp(WORK_SHARE_SD):.1f}"
    least, most = (work_s * math.exp(way * INNER_80 * sd) * 1e3 for way in (-1, 1))
    level = f"a request takes {work_s * 1e3:.3g} ms of a core in all, {math.exp(log_level):.3g} times the prior"
    words = (
        f"at low load the median response takes {median_s * 1e3:.3g} ms, {share}",
        f"{level} ({least:.2g} to {most:.2g} ms, 80 %)",
    )
    return Fit(
        names=COSTS,
        before=tuple(costs.tolist()),
        mean=tuple(mean.tolist()),
        covariance=tuple(tuple(row) for row in np.outer(shared, shared).tolist()),
        noise=prior.cpu.service_cv,
        rows=int(there.sum()),
        changed=words,
    )
