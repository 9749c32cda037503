"""Repeat tests, and tell which of them ever failed. A test that fails once in twenty runs tells of
a race, in itself or in the program: the gate takes every failure at its word, and this finds them.

    python tests/repeat.py                        the whole suite, five times, as the gate runs it
    python tests/repeat.py --times 20 --busy      … with every processor kept busy
    python tests/repeat.py -- tests/host -k stop  these only: what follows ``--`` is pytest's

``--busy`` keeps a process computing for each processor that we may use, until the end.
``--limit-s`` ends a run that takes longer (in seconds). ``--logs`` is a directory for the logs:
``N.log`` and ``N.xml`` of each run, and below ``failed`` a file for each test that failed, with
what each of its failures said.

What a run leaves behind, in sessions of its own too, is killed before the next one begins.

Exit status: 0 no test failed; 1 one did, or a run hit its limit; 2 pytest could not run them.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn
from xml.etree import ElementTree as ET

from supervisor.linux import prctl, procfs

GATE: Final = ("-n", "2", "--dist", "loadgroup")
"""Pytest's arguments where none are given: those of the README's test command."""

BURN: Final = "import os\nus = os.getppid()\nwhile os.getppid() == us:\n    sum(range(10_000))"
"""Ends by itself when we are killed and cannot end it."""


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    logs = pathlib.Path(options.logs or tempfile.mkdtemp(prefix="repeat-")).absolute()
    (logs / "failed").mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGALRM, _over_limit)
    prctl.become_subreaper()  # then what a run leaves behind is our child, and is found
    failures: collections.Counter[str] = collections.Counter()
    with _burning(len(os.sched_getaffinity(0)) if options.busy else 0) as burners:
        for number in range(1, options.times + 1):
            began = time.monotonic()
            failed = _run(logs, number, options.arguments or GATE, options.limit_s, burners)
            for test, text in failed.items():
                name = re.sub(r"[^\w.-]+", "_", test)[-200:]
                with open(logs / "failed" / f"{name}.log", "a", encoding="utf-8") as file:
                    file.write(f"== run {number}: {test}\n{text}\n")
            failures.update(failed.keys())
            took_s = time.monotonic() - began
            print(
                f"run {number} of {options.times}: {len(failed)} failed, {took_s:.0f} s", flush=True
            )
    for test, times in failures.most_common():
        print(f"{times} of {options.times}: {test}")
    print(f"logs: {logs}")
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=5, metavar="N", help="runs (5)")
    parser.add_argument("--busy", action="store_true", help="keep every processor busy")
    parser.add_argument(
        "--limit-s", type=float, default=3600.0, metavar="S", help="of a run (3600)"
    )
    parser.add_argument("--logs", metavar="DIR", help="a new one in the temporary directory")
    parser.add_argument("arguments", nargs="*", metavar="PYTEST_ARGUMENT", help="after --")
    return parser


def _run(
    logs: pathlib.Path, number: int, arguments: Sequence[str], limit_s: float, burners: set[int]
) -> dict[str, str]:
    """One run of pytest: which tests failed → what their failures said."""
    log, results = logs / f"{number}.log", logs / f"{number}.xml"
    results.unlink(missing_ok=True)  # an earlier call's, in the same directory
    command = (sys.executable, "-m", "pytest", *arguments, "-p", "no:cacheprovider")
    # The elder of pytest's two XML formats names the file of each test.
    command += (f"--junitxml={results}", "-o", "junit_family=xunit1")
    try:
        with open(log, "wb") as out:
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            pytest = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        # Whoever ends, for what the tests orphan is handed to us, and a zombie looks alive to them.
        while (ended := os.wait())[0] != pytest.pid:
            pass
        pytest.returncode = os.waitstatus_to_exitcode(ended[1])
    except TimeoutError:
        return {f"(a run over {limit_s:g} s)": _end_of(log)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _kill_descendants(but=burners)
    if pytest.returncode not in (0, 1):
        print(f"{_end_of(log)}\nrun {number}: pytest ended with {pytest.returncode}")
        sys.exit(2)
    return _failed(results)


def _failed(results: pathlib.Path) -> dict[str, str]:
    """Node id of each test that failed, in its setup or teardown too → the failure's text."""
    failed: dict[str, str] = {}
    for case in ET.parse(results).iter("testcase"):
        if not (found := [*case.iter("failure"), *case.iter("error")]):
            continue
        file, module = case.get("file", ""), case.get("classname", "")
        inner = module.removeprefix(file.removesuffix(".py").replace("/", ".")).strip(".")
        test = "::".join(filter(None, (file, inner.replace(".", "::"), case.get("name", ""))))
        failed[test] = "\n".join(element.text or "" for element in found)
    return failed


@contextlib.contextmanager
def _burning(count: int) -> Iterator[set[int]]:
    burners = [subprocess.Popen((sys.executable, "-S", "-E", "-c", BURN)) for _ in range(count)]
    try:
        yield {burner.pid for burner in burners}
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def _kill_descendants(*, but: set[int]) -> None:
    """Their children become ours as they die, so that it ends when there are none."""
    while left := set(procfs.own_children() or ()) - but:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _end_of(log: pathlib.Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-4000:]


def _leave(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)  # through every ``finally``


def _over_limit(*_: object) -> NoReturn:
    raise TimeoutError


if __name__ == "__main__":
    sys.exit(main())
