"""Real trainings with TensorFlow whose step, rate and source are known from outside."""

from __future__ import annotations

import json
import pathlib
import urllib.request
from typing import Any

import pytest

from tests.helpers.aio import free_port
from tests.helpers.train import Script, Train, lay_out
from tests.helpers.tree import SCRIPTS
from tests.helpers.waiting import wait_until
from tests.scripts import progressing

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("tensorflow")]

LAST = progressing.STEPS * progressing.EPOCHS
STRIDE = 5
DELAY_S = 0.5
"""Between what is written and what is seen of it: a bar is drawn now and then."""


def asked(port: int) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status") as answer:
            progress: dict[str, Any] | None = json.loads(answer.read())["progress"]
            return progress
    except OSError:  # it is not there yet, or not any more
        return None


@pytest.mark.parametrize(
    ("way", "source", "total", "gap"),
    [
        ("keras", "output", LAST, 10),
        ("tf_keras", "output", LAST, 10),
        ("session", "event files", None, 60),  # its writer keeps ten events back
        ("events", "event files", None, 10),
    ],
)
def test_step_and_rate_are_right_and_their_source_is_named(
    tmp_path: pathlib.Path, way: str, source: str, total: int | None, gap: int
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    directory = base / "output" / "data"
    text = (SCRIPTS / "progressing.py").read_text()
    port = free_port()
    script = Script("train.py", text.replace("sys.argv[1]", repr(way)))
    lay_out(base, Script(script.entry, script.text.replace("sys.argv[2]", repr(str(directory)))))
    seen: list[dict[str, Any]] = []
    with Train(base, SUPERVISOR_STATUS_PORT=str(port)) as train:

        def over() -> bool:
            progress = asked(port)
            trains = progress is not None and progress["unit"] == "step"
            if progress and trains and (not seen or progress["step"] != seen[-1]["step"]):
                seen.append(progress)
            return train.process.poll() is not None

        wait_until(over, 120)
        assert train.wait() == 0
        last = train.report["progress"]
    truth = [
        (float(at), int(step))
        for at, step in (line.split() for line in (directory / "truth").read_text().splitlines())
    ]
    made = {step: at for at, step in truth}
    assert (last["source"], last["unit"], last["total"]) == (source, "step", total)
    assert LAST - 10 <= last["step"] <= LAST
    assert seen
    for progress in seen:
        assert progress["source"] == source, progress
        step = progress["step"]
        # A step of a session is numbered when it begins, and a summary belongs to it.
        told = made.get(step) or made[step + 1]
        assert progress["at"] >= told - 2 * progressing.STEP_S - 0.1, progress
        later = [number for at, number in truth if at < progress["at"] - DELAY_S]
        assert step >= max(later, default=0) - gap, progress
    # The first summary takes a second, and is told with the time when that was over.
    begun, first = truth[STRIDE]
    assert last["rate"] == pytest.approx((LAST - first) / (truth[-1][0] - begun), rel=0.2)
    assert isinstance(last["loss"], float)
