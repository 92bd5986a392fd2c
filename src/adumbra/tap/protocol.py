"""What every traffic source offers: batches of raw bytes, and its losses. No implementation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self

from adumbra.schema.records import Datagrams, Frames, LogLines, Losses

Batch = Frames | Datagrams | LogLines


class Source(Protocol):
    """A traffic source, opened by `with`. A batch's arrays are valid until the next batch is asked for."""

    @property
    def name(self) -> str:
        """What the user calls it, such as "pcap:shop.pcap"."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def losses(self) -> Losses:
        """What is known so far of frames that the source did not give."""
        ...

    def progress(self) -> float | None:
        """How much of the source has been read, 0 to 1; None where that is not known."""
        ...
