"""What has become of each output, in figures: for the report and for ``/metrics``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from supervisor.streams import Sink

if TYPE_CHECKING:  # heavy: loaded with the status server
    from supervisor.status.snapshot import Sample


def rows(sinks: Iterable[Sink]) -> list[dict[str, object]]:
    """What has become of each output by now, for the report."""
    return [
        {
            "name": sink.name,
            "written_bytes": sink.written_bytes,
            "unwritten_bytes": sink.unwritten_bytes,
            "dropped_bytes": sink.dropped_bytes,
            "dropped_lines": sink.dropped_lines,
            "discarded_bytes": sink.discarded_bytes,
            "longest_stall_s": round(sink.longest_stall_s, 3),
            "error": (sink.error.strerror or str(sink.error)) if sink.error else None,
        }
        for sink in sinks
    ]


def samples(sinks: Iterable[Sink]) -> Iterator[Sample]:
    """The same for ``/metrics``."""
    from supervisor.status.snapshot import Sample  # noqa: PLC0415  # it is loaded: it asks

    for sink in sinks:
        labels = {"sink": os.path.basename(sink.name)}
        counters = (
            ("stream_written_bytes", "Bytes written to the output.", sink.written_bytes),
            (
                "stream_dropped_bytes",
                "Bytes left out because the output was too slow.",
                sink.dropped_bytes,
            ),
            (
                "stream_dropped_lines",
                "Lines left out because the output was too slow.",
                sink.dropped_lines,
            ),
            (
                "stream_discarded_bytes",
                "Bytes thrown away because the output had failed.",
                sink.discarded_bytes,
            ),
        )
        for name, text, value in counters:
            yield Sample(name, text, value, labels, "counter")
        queued = sink.unwritten_bytes
        yield Sample("stream_queued_bytes", "Bytes that wait to be written.", queued, labels)
        yield Sample(
            "sink_stalled_seconds",
            "How long the output has taken nothing.",
            sink.stalled_s(),
            labels,
        )
        yield Sample("sink_broken", "1 when the output has failed.", sink.broken, labels)
