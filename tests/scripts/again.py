"""A script whose second host is killed in its first three attempts, or ``for ever``, each time
after it has saved: ``again.py [for ever]``. The others wait until it has come through.
"""

import os
import signal
import sys
import time

attempt, host = int(os.environ["SUPERVISOR_ATTEMPT"]), os.environ["SM_CURRENT_HOST"]
print(f"begins attempt {attempt}", flush=True)
for_ever = sys.argv[-1] == "for ever"
LAST = 4
GIVEN_UP_S = 60.0


def save(name: str) -> None:
    path = os.path.join(os.environ["SUPERVISOR_CHECKPOINT_DIR"], name)
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        file.write("{}")
    os.rename(f"{path}.tmp", path)


if host in {"algo-1", "algo-2"}:
    save(f"ckpt-{attempt}.json")
shared = os.path.join(os.environ["SUPERVISOR_CHECKPOINT_DIR"], "..", "..", "done")
if host == "algo-2":
    if for_ever or attempt < LAST:
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    open(shared, "w", encoding="utf-8").close()
else:
    began = time.monotonic()
    while not os.path.exists(shared) and time.monotonic() - began < GIVEN_UP_S:
        time.sleep(0.01)
