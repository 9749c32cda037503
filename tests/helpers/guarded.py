"""A small supervisor with a guardian, to be killed: ``python guarded.py VERB ARGUMENTS…``.

Starts the child of ``children.py`` that the arguments name, passes its first line on, and waits.
``--unmarked`` has the child lose its mark. Says ``guardian PID`` first.
"""

from __future__ import annotations

import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from supervisor.children.guardian import Guardian

if __name__ == "__main__":
    started = time.perf_counter()
    guardian = Guardian.start()
    took_ms = (time.perf_counter() - started) * 1000
    print("guardian", guardian.pid, f"{took_ms:.3f}", flush=True)

    from supervisor.children.child import spawn
    from supervisor.life.words import ProcessSpec, Role
    from supervisor.linux import orphans
    from tests.helpers.children import command

    orphans.adopt()
    arguments = sys.argv[1:]
    unmarked = arguments[:1] == ["--unmarked"]
    argv = command(*arguments[1:]) if unmarked else command(*arguments)
    if unmarked:
        argv = ("/usr/bin/env", "-i", *argv)
    child = spawn(ProcessSpec("worker", Role.WORKER, argv, dict(os.environ), "/"))
    guardian.watch(child.pid)
    os.set_blocking(child.stdout_fd, True)
    print("child", child.pid, os.read(child.stdout_fd, 4096).decode().strip(), flush=True)
    for line in sys.stdin:
        if line.strip() == "close":
            child.close()
            guardian.forget(child.pid)
            guardian.close()
            print("closed", flush=True)
        if line.strip() == "leave":
            guardian.close()
            os._exit(0)
