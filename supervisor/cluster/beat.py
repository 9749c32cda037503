"""Looks that are due by the clock fall together: a wake costs more than what is looked at.

An idle event loop that wakes for nothing takes 0.15 ms of CPU time, most of it for coming back to
a cold cache. Whatever looks at regular intervals does so at whole multiples of its interval on the
monotonic clock, and one wake serves all whose intervals are multiples of each other.
"""

from __future__ import annotations

import time


def rest_s(interval_s: float) -> float:
    """Seconds to the next beat of ``interval_s``: more than 0, and no more than that."""
    return interval_s - time.monotonic() % interval_s
