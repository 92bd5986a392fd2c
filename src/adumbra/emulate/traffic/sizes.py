"""Sizes of messages, segments and acknowledgements, times and clients, from sums over intervals. Pure.

Only sums are stored: means follow from them, spreads from how means of intervals vary, and shapes are assumed lognormal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from adumbra.schema.records import Floats

MTU = 1500
OPTIONS_BYTES = 12  # timestamps, on every segment but SYNs
SYN_EXTRA_BYTES = 8  # a SYN's 20 bytes of options, beyond those
HANDSHAKE_FROM_CLIENT, HANDSHAKE_FROM_SERVER = 4, 2  # SYN, ACK, FIN, ACK; SYN with ACK, FIN
INITIAL_WINDOW = 10  # segments (RFC 6928)
LEAST_CV, MOST_CV = 0.05, 6.0
_NORMAL = NormalDist()
_GRID = np.array([_NORMAL.inv_cdf((k + 0.5) / 512.0) for k in range(512)])


def header_bytes(version: int) -> int:
    """IP and TCP headers of a segment with timestamps."""
    return (20 if version == 4 else 40) + 20 + OPTIONS_BYTES


def segment_bytes(version: int) -> int:
    """The payload of a full segment on Ethernet."""
    return MTU - header_bytes(version)


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one VM as a server: requests, connections to it, the share of those that fail; IP bytes and packets each way."""

    requests: float
    connections: float
    failed_share: float
    rx_bytes: float
    tx_bytes: float
    rx_packets: float
    tx_packets: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one VM by interval, float64[T]: requests, and payload bytes each way."""

    requests: Floats
    request_bytes: Floats
    response_bytes: Floats


def fit_sizes(sums: Sums, spread: Spread, version: int) -> dict[str, float]:
    """Figures of a traffic.VmTraffic: sizes, their spread, segments and acknowledgements.

    Payload is what IP bytes are beyond headers with timestamps. Packets beyond those that the messages need are taken for
    acknowledgements, up to one a segment, and for small segments beyond that.
    """
    header, full = header_bytes(version), segment_bytes(version)
    whole = sums.connections * (1.0 - sums.failed_share)
    # A reset has no options, a SYN has more than other segments.
    asked = sums.rx_bytes - header * sums.rx_packets - SYN_EXTRA_BYTES * sums.connections
    told = sums.tx_bytes - header * sums.tx_packets - SYN_EXTRA_BYTES * whole
    told += OPTIONS_BYTES * (sums.connections - whole)
    request_bytes, response_bytes = (max(each / sums.requests, 1.0) for each in (asked, told))
    request_cv, response_cv = (cv_of(spread.requests, each) for each in (spread.request_bytes, spread.response_bytes))
    request_segments = segments(request_bytes, request_cv, full)
    response_segments = segments(response_bytes, response_cv, full)
    failed = sums.connections - whole
    from_server = (sums.tx_packets - HANDSHAKE_FROM_SERVER * whole - failed) / sums.requests - response_segments
    server_acks = float(np.clip(from_server / request_segments, 0.0, 1.0))
    response_extra = max(from_server - server_acks * request_segments, 0.0)
    from_client = (sums.rx_packets - HANDSHAKE_FROM_CLIENT * whole - failed) / sums.requests - request_segments
    client_acks = float(np.clip(from_client / (response_segments + response_extra), 0.0, 1.0))
    request_extra = max(from_client - client_acks * (response_segments + response_extra), 0.0)
    return {
        "requests_per_connection": max(sums.requests / max(whole, 1e-9), 1.0) if whole > 0 else 1.0,
        "request_bytes": request_bytes, "request_cv": request_cv, "response_bytes": response_bytes, "response_cv": response_cv,
        "request_extra": min(request_extra, 20.0), "response_extra": min(response_extra, 20.0),
        "client_acks": client_acks, "server_acks": server_acks,
    }  # fmt: skip


def cv_of(requests: Floats, payload: Floats) -> float:
    """The coefficient of variation of single messages' sizes, from how the intervals' means vary (one-way analysis).

    The mean of n messages varies by 1/n of what one does; that means drift as well makes the figure too large, not too small.
    """
    known = (requests > 0) & (payload > 0)
    if known.sum() < 3:
        return 1.0
    count, total = requests[known], payload[known]
    mean = total.sum() / count.sum()
    variance = float((count * (total / count - mean) ** 2).sum() / (known.sum() - 1))
    return float(np.clip(math.sqrt(variance) / mean, LEAST_CV, MOST_CV))


def log_figures(mean: float, cv: float) -> tuple[float, float]:
    """Mean and standard deviation of the logarithm of a lognormal variable of that mean and coefficient of variation."""
    variance = math.log1p(cv * cv)
    return math.log(mean) - variance / 2.0, math.sqrt(variance)


def segments(mean: float, cv: float, full: int) -> float:
    """The expected number of full segments that hold a lognormal message; at least one."""
    mu, sigma = log_figures(max(mean, 1.0), cv)
    return float(np.mean(np.maximum(np.ceil(np.exp(mu + sigma * _GRID) / full), 1.0)))


def rounds(size: float) -> float:
    """Round trips in which a window that begins with ten segments and doubles sends so many bytes, beyond the first half."""
    return max(math.log2(size / (INITIAL_WINDOW * segment_bytes(4)) + 1.0), 0.0)


@dataclass(frozen=True, slots=True)
class Lognormal:
    median: float
    sigma: float


def lognormal_of(p50: Floats, p99: Floats, counts: Floats) -> Lognormal | None:
    """A lognormal from medians and 99th percentiles by interval, of so many values each; None where nothing is known.

    Of n values the 99th percentile is near the largest, at the normal's quantile n / (n + 1), where n is below 100.
    """
    known = ~np.isnan(p50) & ~np.isnan(p99) & (np.nan_to_num(counts) > 0) & (np.nan_to_num(p50) > 0)
    if not known.any():
        return None
    weight, middle = counts[known], np.log(p50[known])
    centre = _weighted_median(middle, weight)
    many = weight >= 4
    if not many.any():
        return Lognormal(math.exp(centre), float(np.clip(middle.std(), 0.01, 3.0)))
    reach = np.array([_NORMAL.inv_cdf(min(n / (n + 1.0), 0.99)) for n in weight[many]])
    spreads = np.maximum(np.log(p99[known][many]) - middle[many], 0.0) / reach
    sigma = _weighted_median(spreads, weight[many])
    return Lognormal(math.exp(centre), float(np.clip(sigma, 0.01, 3.0)))


def _weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values)
    half = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2.0)
    return float(values[order][min(half, len(order) - 1)])


def clients_of(peers: float, connections: float, most: int) -> int:
    """How many clients there are, if each is as likely: n so that `connections` draws from n give so many distinct ones.

    Known from one interval's peers only, so where nearly all differ it is but a lower bound, and `most` stands.
    """
    if peers <= 0 or connections <= 0:
        return 256
    if peers >= 0.98 * connections:
        return most
    low, high = max(peers, 1.0), float(most)
    for _ in range(60):
        middle = math.sqrt(low * high)
        distinct = middle * -math.expm1(connections * math.log1p(-1.0 / middle)) if middle > 1 else 1.0
        low, high = (middle, high) if distinct < peers else (low, middle)
    return int(np.clip(round(high), 1, most))
