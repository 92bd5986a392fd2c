"""What a worker does with a socket that it was sent: maps, drops, reads. Light to import, so that the drop can come first."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

from adumbra.tap import privileges
from adumbra.tap.packet_socket import PacketSocket


def work(given: PacketSocket, told: Connection) -> None:
    """Drops all, taps, says when it is ready, and then, once asked to end, the frames, the losses and what it holds."""
    privileges.drop_all()
    from adumbra.tap.live import LiveTap

    frames: list[tuple[bytes, int]] = []
    with LiveTap(given, time.time_ns, should_stop=told.poll) as tap:
        ready = False
        for batch in tap:
            if not ready:
                told.send("ready")
                ready = True
            data = batch.data.tobytes() if len(batch) else b""
            for offset, captured, length in zip(
                batch.offset.tolist(), batch.captured.tolist(), batch.length.tolist(), strict=True
            ):
                frames.append((data[offset : offset + captured], length))
        losses = tap.losses()
    told.recv()
    told.send((frames, losses, privileges.held().nothing))
    told.close()
