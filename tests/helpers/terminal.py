"""A command at a terminal of so many columns, as a person sits there: tmux, on a server of its own.

What is captured is what the terminal shows, scrollback and all, not what was written to it.
"""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Self

from tests.helpers.waiting import wait_until

_LOOK_S = 0.05
"""Each look is a process."""


def why_not() -> str | None:
    """Why there is no terminal here; None where there is."""
    return None if shutil.which("tmux") else "tmux is not installed"


class Terminal:
    """A context manager; at its end the command and everything of the terminal is gone."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: pathlib.Path,
        env: Mapping[str, str],
        columns: int = 80,
        lines: int = 40,
    ) -> None:
        self._socket = str(cwd / ".tmux")
        self._code = cwd / ".code"
        self._command = command
        self._cwd = cwd
        self._env = {**env, "TERM": "screen-256color"}
        self._size = (str(columns), str(lines))

    def _tmux(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["tmux", "-f", "/dev/null", "-S", self._socket, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env={**os.environ, "LC_ALL": "C.UTF-8", "TERM": "screen-256color"},
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def __enter__(self) -> Self:
        given = [f"{name}={value}" for name, value in self._env.items()]
        # tmux 3.3 does not always know the exit status. The shell outlives Ctrl-C to write it.
        command = f"trap : INT; {shlex.join(['env', '-i', *given, *self._command])}"
        command += f"; echo $? > {shlex.quote(str(self._code))}"
        columns, lines = self._size
        self._tmux("new-session", "-d", "-s", "t", "-x", columns, "-y", lines, "sleep 600")
        for name, value in (
            ("history-limit", "20000"),
            ("default-size", f"{columns}x{lines}"),
            ("remain-on-exit", "on"),
            ("remain-on-exit-format", ""),
            ("status", "off"),
        ):
            self._tmux("set-option", "-g", name, value)
        self._tmux("new-window", "-n", "job", "-c", str(self._cwd), command)
        return self

    def __exit__(self, *_: object) -> None:
        pid = self._ask("pane_pid")
        self._tmux("kill-server", check=False)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 20, "the command lives on")

    def _ask(self, name: str) -> str:
        return self._tmux("display-message", "-p", "-t", "t:job", f"#{{{name}}}").strip()

    # ------------------------------------------------------------------ what a person does

    def screen(self) -> str:
        """The visible part."""
        return self._tmux("capture-pane", "-p", "-t", "t:job")

    def everything(self, *, joined: bool = False) -> str:
        """Scrollback and screen; ``joined``: rows that the terminal broke are one line."""
        words = ("-J",) if joined else ()
        text = self._tmux("capture-pane", "-p", *words, "-S", "-", "-t", "t:job")
        return "\n".join(line.rstrip() for line in text.splitlines()).rstrip() + "\n"

    def press(self, *keys: str) -> None:
        """As tmux names them: ``C-c``, ``Enter``."""
        self._tmux("send-keys", "-t", "t:job", *keys)

    def resize(self, columns: int, lines: int) -> None:
        self._tmux("resize-window", "-t", "t:job", "-x", str(columns), "-y", str(lines))

    def wait_for(self, pattern: str, timeout_s: float = 60.0) -> str:
        """Until it is shown."""

        def look() -> str:
            time.sleep(_LOOK_S)
            text = self.everything(joined=True)
            found = re.search(pattern, text)
            if not found:
                assert not self._code.exists(), f"it ended without {pattern!r}:\n{text}"
            return text if found else ""

        return wait_until(look, timeout_s, f"no {pattern!r} in time")

    def wait(self, timeout_s: float = 90.0) -> int:
        """The exit code."""

        def ended() -> bool:
            time.sleep(_LOOK_S)
            return self._code.exists() and bool(self._code.read_text().strip())

        wait_until(ended, timeout_s, "it does not end")
        return int(self._code.read_text())
