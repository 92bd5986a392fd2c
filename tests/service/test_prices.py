"""Files of prices: what is read, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from adumbra.schema.errors import InputError
from adumbra.service.prices import prices_from

HEAD = "resource,usd_per_hour\n"
READ = [
    (HEAD + "cpu_cores,0.031\nmemory_gb,0.004\n", {"cpu_cores": 0.031, "memory_gb": 0.004}),
    ("cpu_cores , 1e-2 \r\n\r\n", {"cpu_cores": 0.01}),
    ("\ufeff" + HEAD + "bandwidth_mbps,0\n", {"bandwidth_mbps": 0.0}),
]
REFUSED = [
    ("", "has no prices; write lines such as"),
    (HEAD, "has no prices"),
    (HEAD + "gpu,1\n", ":2: 'gpu,1' is no price of a resource"),
    (HEAD + "cpu_cores,-1\n", ":2: '-1' is no price"),
    (HEAD + "cpu_cores,nan\n", ":2: 'nan' is no price"),
    (HEAD + "cpu_cores,inf\n", "'inf' is no price"),
    (HEAD + "cpu_cores,cheap\n", "'cheap' is no price"),
    (HEAD + "cpu_cores,1,2\n", ":2: 'cpu_cores,1,2' is no price of a resource"),
    (HEAD + "cpu_cores,1\ncpu_cores,2\n", ":3: cpu_cores has two prices"),
    ('"cpu', "is no CSV"),
    ("x" * 70_000, "too large"),
]


@pytest.mark.parametrize(("text", "want"), READ)
def test_prices(tmp_path: Path, text: str, want: dict[str, float]) -> None:
    file = tmp_path / "prices.csv"
    file.write_text(text, encoding="utf-8", newline="")
    found = prices_from(file)
    assert dict(found.per_hour) == want
    assert found.source == str(file)


@pytest.mark.parametrize(("text", "says"), REFUSED)
def test_what_is_no_file_of_prices(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "prices.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        prices_from(file)
    assert says in str(refused.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no CSV"):
        prices_from(tmp_path / "prices.csv")
    with pytest.raises(InputError, match="can't be read"):
        prices_from(tmp_path)


def test_without_a_file_the_catalogue_tells() -> None:
    found = prices_from(None)
    assert set(found.per_hour) == {"cpu_cores", "memory_gb"}
    assert "aws" in found.source
