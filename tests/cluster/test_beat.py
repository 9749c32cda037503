"""Looks at regular intervals fall together."""

from __future__ import annotations

import time

import pytest

from supervisor.cluster import beat


@pytest.mark.parametrize("interval_s", [0.125, 0.5, 1.0, 2.0])
def test_the_rest_leads_to_a_multiple_of_the_interval(interval_s: float) -> None:
    before = time.monotonic()
    rest_s = beat.rest_s(interval_s)
    after = time.monotonic()
    assert 0 < rest_s <= interval_s
    next_at = (before // interval_s + 1) * interval_s
    if after < next_at:  # else the beat was between the two readings
        assert before <= next_at - rest_s <= after
