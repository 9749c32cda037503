"""What went wrong, from a script's own file beside its last words, and from a rank's."""

from __future__ import annotations

import pytest

from supervisor.children.attribution import attribute_failure
from supervisor.host import explanation
from supervisor.life.attempts import USAGE_ERROR
from supervisor.life.words import ExitStatus
from supervisor.mpi import words

TRACEBACK = "ValueError (train.py:88)"


@pytest.mark.parametrize(
    ("own_words", "last_words", "error"),
    [
        ("the loss is NaN", TRACEBACK, TRACEBACK),
        ("the loss is NaN", "", ""),
        ("ValueError: bad row 17", TRACEBACK, TRACEBACK),  # the same one, and where
        ("KeyError: 'steps'", TRACEBACK, "KeyError"),
        ("KeyError: 'steps'", "", "KeyError"),
        ("my.data.RowError: 17", "", "RowError"),
        ("horovod.HorovodInternalException: 17", "", "HorovodInternalException"),
        ("KeyError", TRACEBACK, TRACEBACK),
        ("Error 17: no", "", ""),
        ("reading gave an OSError: no", "", ""),
        ("usage: x", "usage error", "usage error"),
        ("x" * 90 + "Error: no", "", ""),
    ],
)
def test_what_its_own_file_says_went_wrong(own_words: str, last_words: str, error: str) -> None:
    assert explanation._error(own_words, last_words) == error


@pytest.mark.parametrize(
    ("code", "lines", "error"),
    [
        (
            1,
            [
                "Traceback (most recent call last):",
                '  File "/c/train.py", line 88, in step',
                "ValueError: bad row 17",
            ],
            TRACEBACK,
        ),
        (2, ["usage: train.py [-h]", "train.py: error: unrecognized arguments: --x"], USAGE_ERROR),
    ],
)
def test_what_went_wrong_with_a_rank(code: int, lines: list[str], error: str) -> None:
    mine = [*lines, f"supervisor: rank 1 on algo-2: exit {code}"]
    output = [f"[1,1]<stderr>:{line}\n" for line in mine]
    output.insert(1, "[1,0]<stderr>:step 7\n")
    output.append("-" * 76 + "\nmpirun has exited due to process rank 1\n" + "-" * 76 + "\n")
    read = words.read(b"", "".join(output).encode(), code)
    found = attribute_failure(status=ExitStatus(code=code), run_s=9.0, stderr=read.stderr)
    assert read.who == "rank 1 on algo-2"
    assert found.error == error
