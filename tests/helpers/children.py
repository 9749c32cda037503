"""Small purposeful children: ``command("obeys")`` is what to execute.

Each says ``ready`` on stdout before the test acts, most with pids: ``ready 123 124``. Run as a
program it imports next to nothing, so that hundreds can be started in a second.
"""

from __future__ import annotations

import os
import signal
import sys
import time

PAUSE_S = 3600.0

OF_THE_C_LIBRARY = 0b11 << 31
"""Signals 32 and 33 in a mask of proc(5). glibc's posix_spawn, which subprocess uses from Python
3.13 on, leaves them ignored in whatever it starts, and lets nobody set them otherwise."""


def command(verb: str, *arguments: object) -> tuple[str, ...]:
    """The command line of a child."""
    return (sys.executable, "-S", "-E", __file__, verb, *map(str, arguments))


def say(*words: object) -> None:
    """One write, whole, unbuffered."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def pause() -> None:
    while True:
        time.sleep(PAUSE_S)


def ignore_term() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def fork_once(*, session: bool, stubborn: bool) -> int:
    """A child that stays; its pid. Returns when it has its dispositions."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        if session:
            os.setsid()
        if stubborn:
            ignore_term()
        os.close(read)
        os.write(write, b"x")
        os.close(write)
        pause()
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return pid


def fork_twice(*, stubborn: bool, hold_output: bool = True) -> int:
    """A daemon with a session of its own whose parent is gone; its pid."""
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.setsid() if os.getsid(0) == os.getpid() else None
        if stubborn:
            ignore_term()
        if not hold_output:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1)
            os.dup2(null, 2)
        os.write(write, str(os.getpid()).encode())
        os.close(write)
        os.close(read)
        pause()
    os.close(write)
    os.waitpid(middle, 0)
    pid = int(os.read(read, 32))
    os.close(read)
    return pid


# ---------------------------------------------------------------------------- verbs


def obeys() -> None:
    """Saves (says so) and exits 0 at SIGTERM."""

    def save(signum: int, frame: object) -> None:
        say("saved")
        os._exit(0)

    signal.signal(signal.SIGTERM, save)
    say("ready")
    pause()


def plain() -> None:
    """Default dispositions."""
    say("ready")
    pause()


def ignores() -> None:
    ignore_term()
    say("ready")
    pause()


def late(seconds: str) -> None:
    """Exits 0 some time after SIGTERM."""

    def leave(signum: int, frame: object) -> None:
        say("leaving")
        time.sleep(float(seconds))
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    say("ready")
    pause()


def saves(seconds: str, path: str) -> None:
    """Takes its time to write a file at SIGTERM, and exits 0."""

    def save(signum: int, frame: object) -> None:
        time.sleep(float(seconds))
        with open(path, "w") as file:
            file.write("weights")
        os._exit(0)

    signal.signal(signal.SIGTERM, save)
    say("ready")
    pause()


def works_elsewhere(seconds: str, code: str) -> None:
    """All of its work is done by a child process."""
    pid = os.fork()
    if pid == 0:
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until:
            pass
        os._exit(0)
    os.waitpid(pid, 0)
    os._exit(int(code))


def exits(code: str) -> None:
    os._exit(int(code))


def dies(signum: str) -> None:
    """Of a signal, with default action and no core file."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    number = int(signum)
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    pause()


def tells() -> None:
    """Says every signal that it gets; exits 0 at SIGQUIT.

    Without handlers: those of Python interrupt each other before they have said anything.
    """
    wanted = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    say("ready")
    while True:
        signum = signal.sigwait(wanted)
        try:
            say(signal.Signals(signum).name)
        except ValueError:
            say(signum)  # most real-time signals have no name
        if signum == signal.SIGQUIT:
            os._exit(0)


def signal_state() -> None:
    """The lines of /proc/self/status that speak of signals, as we were executed."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(("SigBlk", "SigIgn")):
                say(line.strip().replace("\t", ""))


def descriptors() -> None:
    """The descriptors that are open, the one that lists them left out."""
    names = os.listdir("/proc/self/fd")
    say(" ".join(n for n in names if os.path.exists(f"/proc/self/fd/{n}")))


def leaves(kind: str, code: str = "0") -> None:
    """Makes one descendant and exits. ``kind``: group, session, daemon; -stubborn; -quiet."""
    stubborn = "stubborn" in kind
    if "daemon" in kind:
        pid = fork_twice(stubborn=stubborn, hold_output="quiet" not in kind)
    else:
        pid = fork_once(session="session" in kind, stubborn=stubborn)
    say("ready", pid)
    os._exit(int(code))


def keeps(kind: str) -> None:
    """Makes one descendant and stays."""
    stubborn = "stubborn" in kind
    if "daemon" in kind:
        pid = fork_twice(stubborn=stubborn)
    else:
        pid = fork_once(session="session" in kind, stubborn=stubborn)
    say("ready", pid)
    pause()


def orphans(count: str) -> None:
    """Makes short-lived orphans, all at once, and stays."""
    for _ in range(int(count)):
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                time.sleep(0.05)
            os._exit(0)
        os.waitpid(middle, 0)
    say("ready")
    pause()


def descendants(count: str, kind: str = "group") -> None:
    """Holds many descendants; exits at a line end on no input, that is at SIGTERM."""
    for _ in range(int(count)):
        if os.fork() == 0:
            if "session" in kind:
                os.setsid()
            if "stubborn" in kind:
                ignore_term()
            pause()
    say("ready")
    pause()


def stopped() -> None:
    """Suspends itself."""
    say("ready")
    os.kill(os.getpid(), signal.SIGSTOP)
    pause()


def fly(pause_s: float, until: float) -> None:
    """A process that is never the same for long: forks, leaves its session, exits."""
    while time.monotonic() < until:
        if os.fork():
            os._exit(0)
        os.setsid()
        if pause_s:
            time.sleep(pause_s)
    os._exit(0)


def comets(count: str, pause_s: str = "0", stubborn: str = "") -> None:
    """So many of them, each in a session of its own at any time. They burn out after 30 s."""
    until = time.monotonic() + 30
    if stubborn:
        ignore_term()
    for _ in range(int(count)):
        if os.fork() == 0:
            fly(float(pause_s), until)
    say("ready")
    pause()


def floods() -> None:
    """Output for ever."""
    block = b"x" * 99 + b"\n"
    while True:
        os.write(1, block * 100)


def half_line() -> None:
    """Never ends its line, and dies."""
    os.write(1, b"the last words")
    os.kill(os.getpid(), signal.SIGKILL)


def raises(message: str = "loss is NaN") -> None:
    raise RuntimeError(message)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
