"""The bundled parameter server example, made to raise on one host once it has printed something.

``--fault-host algo-2 --fault-after 'worker 0 serves'``; the other arguments are the example's.
"""

from __future__ import annotations

import argparse
import builtins
import os
import runpy
import sys
from typing import Any

EXAMPLE = "parameter_server_strategy.py"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault-host", required=True)
    parser.add_argument("--fault-after", required=True)
    args, sys.argv[1:] = parser.parse_known_args()
    plain_print = print

    def print_then_fail(*words: Any, **options: Any) -> None:
        plain_print(*words, **options)
        if args.fault_after in " ".join(map(str, words)):
            raise RuntimeError("made to fail")

    if os.environ["SM_CURRENT_HOST"] == args.fault_host:
        builtins.print = print_then_fail
    import supervisor

    assert supervisor.__file__ is not None
    directory = os.path.join(os.path.dirname(supervisor.__file__), "examples")
    runpy.run_path(os.path.join(directory, EXAMPLE), run_name="__main__")


if __name__ == "__main__":
    main()
