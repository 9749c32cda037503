"""What a person sees of `supervisor local`, scene by scene, at a real terminal.

    python -m tests.helpers.transcripts [SCENE …]

plays the scenes (all, or those named) at 80 and 120 columns and writes the guide's page of them,
`supervisor/guide/terminal.md`. What differs from run to run is written alike: times, pids, paths.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.helpers.job import COMMAND, environment
from tests.helpers.terminal import Terminal
from tests.helpers.tree import ROOT

PAGE = ROOT / "supervisor" / "guide" / "terminal.md"
WIDTHS = (80, 120)

TRAIN = """\
import os, time

for epoch in range(1, 4):
    time.sleep(0.2)
    if os.environ["SM_CURRENT_HOST"] == "algo-1":
        print(f"epoch {epoch} loss {1 / epoch:.3f}", flush=True)
if os.environ["SM_CURRENT_HOST"] == "algo-1":
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "weights.h5"), "w") as file:
        file.write("0.5")
time.sleep(0.3)
"""
BUG = """\
import os, time

config = {"lr": 0.1}
print("epoch 1", flush=True)
time.sleep(0.7)
if os.environ["SM_CURRENT_HOST"] == "algo-3":
    print(config["batch_size"])
time.sleep(60)
"""
LONG = """\
import os, signal, sys, time

def save(signum, frame):
    with open(os.path.join(os.environ["SUPERVISOR_CHECKPOINT_DIR"], "step-7.npy"), "w") as file:
        file.write("7")
    print("saved step 7", flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, save)
print("epoch 1", flush=True)
time.sleep(600)
"""
DEAF = """\
import signal, time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("epoch 1", flush=True)
time.sleep(600)
"""
RESUME = """\
import os, time

print("found", sorted(os.listdir(os.environ["SUPERVISOR_CHECKPOINT_DIR"])), flush=True)
time.sleep(0.7)
"""


def _to_the_end(terminal: Terminal) -> None:
    del terminal


def _ctrl_c(terminal: Terminal) -> None:
    for host in ("algo-1", "algo-2", "algo-3"):
        terminal.wait_for(rf"{host} \w+ │ epoch 1")
    terminal.press("C-c")


def _ctrl_c_twice(terminal: Terminal) -> None:
    _ctrl_c(terminal)
    terminal.wait_for("the scripts have 10 s")
    terminal.wait_for(r"stopping, \d+ s left")
    terminal.press("C-c")


@dataclass(frozen=True)
class Scene:
    """What is typed, with which script, and what the person does then."""

    title: str
    script: str
    code: int
    """The exit code."""
    words: Sequence[str] = ("--strategy", "none")
    name: str = "train.py"
    acts: Callable[[Terminal], None] = _to_the_end
    before: Callable[[pathlib.Path], None] | None = field(default=None)
    """Lays something out in the working directory."""
    cause: str = ""
    """The sentence that explains the end, where it failed."""


def _checkpoint(place: pathlib.Path) -> None:
    for host in ("algo-1", "algo-2"):
        checkpoints = place / "run" / host / "checkpoints"
        checkpoints.mkdir(parents=True)
        (checkpoints / "step-7.npy").write_text("7")


SCENES = {
    "success": Scene("A job that succeeds", TRAIN, 0),
    "failure": Scene(
        "A worker fails", BUG, 1, name="bug.py", cause="KeyError: 'batch_size'",
    ),
    "ctrl-c": Scene("Ctrl-C, and the scripts save", LONG, 0, acts=_ctrl_c),
    "twice": Scene("Ctrl-C twice: scripts that do not listen", DEAF, 137, acts=_ctrl_c_twice),
    "five": Scene("Five hosts", TRAIN, 0, words=("--hosts", "5", "--strategy", "none")),
    "resume": Scene(
        "A run that goes on", RESUME, 0, words=("--hosts", "2", "--strategy", "none"),
        before=_checkpoint,
    ),
    "mpi": Scene("MPI", TRAIN, 0, words=("--hosts", "2", "--strategy", "mpi")),
}  # fmt: skip


def play(name: str, columns: int, place: pathlib.Path, **more: str) -> tuple[str, int]:
    """One scene in an empty directory: what the terminal shows in the end, and the exit code."""
    scene = SCENES[name]
    (place / scene.name).write_text(scene.script)
    if scene.before is not None:
        scene.before(place)
    command = [*COMMAND, "local", "--run-dir", "run", *scene.words, scene.name]
    with contextlib.ExitStack() as stack:
        # A short path: Open MPI has sockets below it.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="t"))
        # The scripts save no real model, and none is looked for.
        env = environment(SUPERVISOR_MODEL_CHECK="off", TMPDIR=scratch, **more)
        terminal = stack.enter_context(Terminal(command, cwd=place, env=env, columns=columns))
        scene.acts(terminal)
        code = terminal.wait()
        return terminal.everything(), code


def alike(text: str, place: pathlib.Path) -> str:
    """What differs from run to run, written alike; the columns stay as they are."""

    text = text.replace(f"{place}/", "").replace(f"{place}", ".")
    text = re.sub(r"\b\d\d:\d\d:\d\d\b", "12:00:00", text)
    text = re.sub(r"(?<=pid )\d+", "4711", text)
    return re.sub(r"(?<=127\.0\.0\.1:)\d+", "20002", text)


def page(played: dict[str, dict[int, str]]) -> str:
    """The guide's page."""
    parts = [_HEAD]
    for name, scene in SCENES.items():
        if name not in played:
            continue
        parts.append(f"\n## {scene.title}\n")
        words = " ".join(["supervisor local --run-dir run", *scene.words, scene.name])
        for columns, text in played[name].items():
            parts.append(
                f"\nAt {columns} columns:\n\n```console\n$ {words}\n{text.rstrip()}\n```\n"
            )
    return "".join(parts)


_HEAD = """\
# At the terminal

What `supervisor local` shows, as a terminal has shown it: seven scenes, each at 80 and at 120 columns. While a job runs, one line stays at the bottom: how many hosts, in which phase, for how long, and what Ctrl-C does; it leaves nothing behind. While hosts join, it names those that are missing.

The supervisors' own lines are short there: time, host, what happened. Without a terminal, or with `SUPERVISOR_LOG_OWN=full`, they have the date, the level and the event's name, as in [the output](output.md) of a container. With `NO_COLOR` set there are no colours.

At the end stand the outcome and its cause, once, with the last lines of a traceback; then a row for each process, the culprit marked, and where everything lies. `supervisor status`, `supervisor logs` and `supervisor report` find the newest run below the working directory by themselves.
"""  # noqa: E501


def main(names: Sequence[str]) -> int:
    played: dict[str, dict[int, str]] = {}
    for name in names or SCENES:
        for columns in WIDTHS:
            with tempfile.TemporaryDirectory() as directory:
                place = pathlib.Path(directory)
                text, code = play(name, columns, place)
                text = alike(text, place)
                assert code == SCENES[name].code, text
            played.setdefault(name, {})[columns] = text
            print(f"{name}, {columns} columns", file=sys.stderr)
    if names:
        print(page(played))
    else:
        PAGE.write_text(page(played), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
