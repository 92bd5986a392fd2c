"""Makes a metric store as format 1 of it was, with rows of batches: what an older Adumbra left behind."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np

from adumbra.schema.metrics import METRICS
from adumbra.schema.records import MetricBatch


def write_format_1(path: Path, *batches: MetricBatch) -> None:
    """Batches of time that goes on, each of a (network, origin) of its own."""
    with duckdb.connect(str(path)) as connection:
        columns = ", ".join(f"{metric.name} {'BIGINT' if metric.whole else 'DOUBLE'}" for metric in METRICS)
        connection.execute(
            "CREATE TABLE intervals (network VARCHAR NOT NULL, origin VARCHAR NOT NULL, vm VARCHAR NOT NULL, "
            "start_ns BIGINT NOT NULL, interval_s DOUBLE NOT NULL, one_sided BOOLEAN NOT NULL, source VARCHAR NOT NULL, "
            f"{columns})"
        )
        connection.execute(
            "CREATE TABLE reach (network VARCHAR, origin VARCHAR, end_ns BIGINT NOT NULL, longest_ns BIGINT NOT NULL, "
            "PRIMARY KEY (network, origin))"
        )
        connection.execute("CREATE TABLE adumbra_store AS SELECT 1 AS schema_version")
        for batch in batches:
            rows = {name: np.ascontiguousarray(values).reshape(-1) for name, values in batch.columns.items()}
            rows["vm"] = np.tile(np.array(batch.vms, dtype=object), len(batch))
            rows["start_ns"] = np.repeat(batch.start_ns, len(batch.vms))
            rows["one_sided"] = batch.one_sided.reshape(-1)
            connection.register("incoming", rows)
            connection.execute(
                f"INSERT INTO intervals (network, origin, interval_s, source, {', '.join(rows)}) "
                f"SELECT ?, ?, ?, ?, {', '.join(rows)} FROM incoming",
                [batch.network, batch.origin.value, batch.interval_s, batch.source],
            )
            connection.unregister("incoming")
            interval_ns = round(batch.interval_s * 1e9)
            reach = [batch.network, batch.origin.value, int(batch.start_ns[-1]) + interval_ns, interval_ns]
            connection.execute("INSERT INTO reach VALUES (?, ?, ?, ?)", reach)
