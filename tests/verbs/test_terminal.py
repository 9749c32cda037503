"""`supervisor local` at a real terminal: what a person sees, scene by scene, and what nobody can
draw there."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import time

import pytest

from tests.helpers import openmpi, terminal
from tests.helpers.job import COMMAND, environment, processes_with
from tests.helpers.terminal import Terminal
from tests.helpers.transcripts import PAGE, SCENES, WIDTHS, alike, play
from tests.helpers.waiting import wait_until

pytestmark = [
    pytest.mark.twice,
    pytest.mark.skipif(terminal.why_not() is not None, reason=terminal.why_not() or ""),
]

BOTTOM = re.compile(r"Ctrl-C stops|s left for the scripts ·|killing everything$", re.MULTILINE)


@pytest.mark.parametrize(
    "columns", [WIDTHS[0], *(pytest.param(each, marks=pytest.mark.once) for each in WIDTHS[1:])]
)
@pytest.mark.parametrize("name", SCENES)
def test_a_scene(tmp_path: pathlib.Path, name: str, columns: int) -> None:
    scene = SCENES[name]
    if name == "mpi" and openmpi.why_not():
        pytest.skip(openmpi.why_not())
    shown, code = play(name, columns, tmp_path)
    assert code == scene.code, shown
    lines = shown.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert lines[0].startswith("supervisor: ")
    assert "http://127.0.0.1:" in "".join(lines[1:3])
    assert not BOTTOM.search(shown), "the line at the bottom leaves the scrollback clean"
    for ending in ("HOST", "run  ", "logs", "more"):
        assert any(line.startswith(ending) for line in lines), ending
    # "errno=" is Open MPI's own.
    assert not re.search(r"\b(?!errno)[a-z_]+=\S", shown), "sentences, no fields"
    assert "\\x1b" not in shown
    if scene.cause:
        assert 1 <= shown.count(scene.cause) <= 3
        assert len(re.findall(r"◀", shown)) == 1
        (head,) = [line for line in lines if line.startswith("FAILED")]
        assert head.startswith(f"FAILED  algo-3 worker: {scene.cause} (bug.py:7)"[:columns])
    if name in {"ctrl-c", "twice"}:
        assert "supervisor: stopping: the scripts have 10 s; Ctrl-C again kills" in lines
        assert "STOPPED  by Ctrl-C" in lines
        assert "received" not in shown
    if name == "resume":
        assert re.search(r"algo-1 resumed from", shown.replace("\n", ""))


def test_the_guide_shows_every_scene_as_it_was_played() -> None:
    """Its page is made by ``python -m tests.helpers.transcripts``."""
    text = PAGE.read_text(encoding="utf-8")
    for scene in SCENES.values():
        section = text.partition(f"\n## {scene.title}\n")[2].partition("\n## ")[0]
        for columns in WIDTHS:
            shown = section.partition(f"At {columns} columns:")[2].partition("```\n\nAt ")[0]
            assert "HOST" in shown, (scene.title, columns)
            assert all(len(line) <= columns for line in shown.splitlines())
            assert not scene.cause or 1 <= shown.count(scene.cause) <= 3


def test_times_pids_and_ports_are_written_alike(tmp_path: pathlib.Path) -> None:
    text = f"12:34:56 chief runs, pid 99; http://127.0.0.1:31999/ in {tmp_path}/run"
    assert alike(text, tmp_path) == (
        "12:00:00 chief runs, pid 4711; http://127.0.0.1:20002/ in run"
    )


WAITING = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"


def local(tmp_path: pathlib.Path, script: str, *words: str) -> list[str]:
    (tmp_path / "s.py").write_text(script)
    words = words or ("--hosts", "2", "--strategy", "none")
    return [*COMMAND, "local", "--run-dir", "run", *words, "s.py"]


def test_the_line_at_the_bottom(tmp_path: pathlib.Path) -> None:
    """It tells how the job stands, fits the terminal, and follows its width."""
    command = local(tmp_path, WAITING)
    with Terminal(command, cwd=tmp_path, env=environment(), columns=90, lines=20) as seen:
        seen.wait_for(r"algo-2 worker │ up")
        seen.wait_for(r"2 hosts running · [\d.]+ s · Ctrl-C stops\n*$")
        seen.resize(30, 20)
        seen.wait_for(r"2 hosts running · [^\n]{0,12}…?\n*$")
        seen.press("C-c")
        assert seen.wait() == 143
        assert not BOTTOM.search(seen.everything())


def test_while_hosts_join_it_names_the_missing(tmp_path: pathlib.Path) -> None:
    command = local(tmp_path, WAITING)
    with Terminal(command, cwd=tmp_path, env=environment(), columns=80) as seen:
        second = str(tmp_path / "run" / "algo-2")
        # Its guardian, which comes later, has the same environment.
        pid = min(wait_until(lambda: processes_with(f"SAGEMAKER_BASE_DIR={second}")))
        os.kill(pid, signal.SIGSTOP)  # long before it has joined
        seen.wait_for(r"\nwaiting for algo-2 · [\d.]+ s · Ctrl-C stops\n*$")
        os.kill(pid, signal.SIGCONT)
        seen.wait_for(r"algo-2 worker │ up")
        seen.press("C-c")
        assert seen.wait() == 143
        assert "\nwaiting for" not in seen.everything()


HOSTILE = r"""
import os, sys
write = sys.stdout.buffer.write
write(b"\x1b[2J\x1b[H\x1b]0;PWNED\x07cleared\n")
write(b"\x1b[?1049h\x1b[10;20Hother screen\n")
write("a\u202eb\u2066c\u200b\n".encode())
write(b"\x9b2Jeight bits\n")
write(b"[red]markup[/red] [link=x]y[/link]\n")
write(b"\x1b[31mred to the end\n")
write(b"plain\rover\n")
write(b"z" * 1_000_000 + b"\n")
write(b"after\n")
"""


def test_hostile_text_changes_nothing(tmp_path: pathlib.Path) -> None:
    """Escapes that clear, move or rename, characters that turn text around, a line of a megabyte:
    they are shown, and the terminal is as before."""
    command = local(tmp_path, HOSTILE, "--hosts", "1")
    with Terminal(command, cwd=tmp_path, env=environment(), columns=100, lines=50) as seen:
        assert seen.wait() == 0
        shown = seen.everything(joined=True)
        title = seen._ask("pane_title")
        assert seen._ask("alternate_on") == "0"
    assert title != "PWNED"
    assert r"\x1b[2J\x1b[H\x1b]0;PWNED\x07cleared" in shown
    assert r"\x1b[?1049h\x1b[10;20Hother screen" in shown
    assert r"a\u202eb\u2066c\u200b" in shown
    assert r"\x9b2Jeight bits" in shown
    assert "[red]markup[/red] [link=x]y[/link]" in shown
    assert shown.startswith("supervisor: 1 host")
    assert "algo-1 chief │ after" in shown
    assert "SUCCEEDED" in shown


def test_without_colours(tmp_path: pathlib.Path) -> None:
    command = local(tmp_path, "print('done')\n", "--hosts", "1")
    env = environment(NO_COLOR="1")
    with Terminal(command, cwd=tmp_path, env=env, columns=80) as seen:
        assert seen.wait() == 0
        raw = seen._tmux("capture-pane", "-p", "-e", "-S", "-", "-t", "t:job")
    assert not re.search(r"\x1b\[(3[0-7]|9[0-7])m", raw)
    assert "SUCCEEDED" in raw


def test_ctrl_c_is_answered_at_once(tmp_path: pathlib.Path) -> None:
    """It was answered by 92 s of silence."""
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAITING
    command = local(tmp_path, deaf)
    with Terminal(command, cwd=tmp_path, env=environment(), columns=80) as seen:
        seen.wait_for(r"algo-1 chief │ up")
        seen.wait_for(r"algo-2 worker │ up")
        began = time.monotonic()
        seen.press("C-c")
        seen.wait_for("stopping: the scripts have 10 s")
        seen.press("C-c")
        assert seen.wait() == 137
        assert time.monotonic() - began < 30
        assert "killing everything now" in seen.everything()
