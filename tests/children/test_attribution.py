"""The one sentence and the detail: from real scripts' last words, from recorded ones, from any."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.children import attribution
from supervisor.children.attribution import Attribution, attribute_failure
from supervisor.life.attempts import USAGE_ERROR
from supervisor.life.words import ExitStatus, speaks_of_lost_peer
from supervisor.linux import cgroup, memory
from supervisor.linux.memory import MemoryReading
from tests.helpers.tree import RECORDINGS

HOURS = 3 * 3600 + 12 * 60.0


def failed(
    stderr: str = "", code: int = 1, stdout: str = "", run_s: float = HOURS, because: str = ""
) -> Attribution:
    return attribute_failure(
        status=ExitStatus(code=code),
        run_s=run_s,
        stdout=stdout.encode(),
        stderr=stderr.encode(),
        stopped_because=because,
    )


def killed(signum: int, stderr: str = "", because: str = "", **more: object) -> Attribution:
    return attribute_failure(
        status=ExitStatus(signum=signum, core_dumped=bool(more.get("core"))),
        run_s=HOURS,
        stderr=stderr.encode(),
        stopped_because=because,
    )


# ---------------------------------------------------------------------------- real scripts

SCRIPTS = {
    "plain": (
        """
        def loss():
            raise RuntimeError("loss is NaN")
        loss()
        """,
        "RuntimeError: loss is NaN (train.py:3)",
    ),
    "cause": (
        """
        def read():
            return {}["steps"]
        try:
            read()
        except KeyError as error:
            raise ValueError("bad configuration") from error
        """,
        "KeyError: 'steps' (train.py:3), which led to ValueError: bad configuration",
    ),
    "context": (
        """
        try:
            1 / 0
        except ZeroDivisionError:
            int("x")
        """,
        (
            "ZeroDivisionError: division by zero (train.py:3), which led to"
            " ValueError: invalid literal for int() with base 10: 'x'"
        ),
    ),
    "library": (
        """
        import json
        def load():
            json.loads("nothing")
        load()
        """,
        "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (train.py:4)",
    ),
    "class": (
        """
        def train():
            class DataError(Exception):
                pass
            raise DataError("first line\\nsecond line")
        train()
        """,
        "DataError: first line (train.py:5)",
    ),
    "no message": ("raise KeyError", "KeyError (train.py:1)"),
    "short first line": (
        """raise RuntimeError("these files are missing:\\na.csv\\nb.csv")""",
        "RuntimeError: these files are missing: a.csv (train.py:1)",
    ),
    "recursion": (
        """
        def f(n):
            return f(n + 1)
        f(0)
        """,
        "RecursionError: maximum recursion depth exceeded (train.py:3)",
    ),
    "syntax": ("x = (1,\n", "SyntaxError: '(' was never closed (train.py:1)"),
    "indent": ("if True:\nx = 1\n", "IndentationError: expected an indented block"),
    "group": (
        """
        def load():
            raise ValueError("no such column")
        errors = []
        try:
            load()
        except ValueError as error:
            errors.append(error)
        raise ExceptionGroup("workers", [ExceptionGroup("first", errors), TypeError("t")])
        """,
        "ExceptionGroup: workers (2 sub-exceptions): ValueError: no such column (train.py:3)",
    ),
    "task group": (
        """
        import asyncio
        async def work():
            raise OSError(28, "No space left on device", "/opt/ml/model")
        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(work())
        asyncio.run(main())
        """,
        (
            "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception):"
            " OSError: [Errno 28] No space left on device: '/opt/ml/model' (train.py:4)"
        ),
    ),
    "sys.exit": (
        """
        import sys
        print("loading")
        sys.exit("no files in /opt/ml/input/data/train")
        """,
        "no files in /opt/ml/input/data/train",
    ),
    "logged before": (
        """
        import logging, sys
        try:
            1 / 0
        except ZeroDivisionError:
            logging.exception("one sample was bad")
        sys.exit("too many bad samples")
        """,
        "too many bad samples",
    ),
    "destructors after": (
        """
        import atexit
        class Reader:
            def __del__(self):
                raise ValueError("in a destructor")
        reader = Reader()
        atexit.register(lambda: 1 / 0)
        raise RuntimeError("the cause")
        """,
        "RuntimeError: the cause (train.py:8)",
    ),
    "thread before": (
        """
        import threading
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        raise RuntimeError("the cause")
        """,
        "RuntimeError: the cause (train.py:6)",
    ),
    "printed after": (
        """
        import os, sys
        sys.excepthook(*(lambda e: (type(e), e, None))(RuntimeError("the cause")))
        print("2024-05-01 10:00:00.000001: I tensorflow/core: shutting down", file=sys.stderr)
        os._exit(1)
        """,
        "RuntimeError: the cause",
    ),
    "notes": (
        """
        error = ValueError("shape mismatch")
        error.add_note("in batch 7")
        raise error
        """,
        "ValueError: shape mismatch (train.py:4)",
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_real_script_says_why(name: str, tmp_path: Path) -> None:
    source, sentence = SCRIPTS[name]
    (tmp_path / "train.py").write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, "train.py"], capture_output=True, check=False, cwd=tmp_path
    )
    found = attribute_failure(
        status=ExitStatus(code=done.returncode),
        run_s=HOURS,
        stdout=done.stdout,
        stderr=done.stderr,
    )
    assert found.message.startswith(sentence)
    assert found.message.endswith("; exit 1 after 3 h 12 min")
    assert found.no_space == (name == "task group")


# ---------------------------------------------------------------------------- what went wrong

ERRORS = {
    "plain": "RuntimeError (train.py:3)",
    "cause": "KeyError (train.py:3)",
    "context": "ValueError (train.py:5)",
    "library": "JSONDecodeError (train.py:4)",
    "class": "DataError (train.py:5)",
    "no message": "KeyError (train.py:1)",
    "short first line": "RuntimeError (train.py:1)",
    "recursion": "RecursionError (train.py:3)",
    "syntax": "SyntaxError (train.py:1)",
    "indent": "IndentationError (train.py:2)",
    "group": "ValueError (train.py:3)",
    "task group": "OSError (train.py:4)",
    "sys.exit": "",
    "logged before": "",
    "destructors after": "RuntimeError (train.py:8)",
    "thread before": "RuntimeError (train.py:6)",
    "printed after": "",
    "notes": "ValueError (train.py:4)",
}
"""Of each of ``SCRIPTS``: the class and its place, and no word that may differ the next time."""

REFUSED = {
    "argparse": """
        import argparse
        parser = argparse.ArgumentParser(prog="the trainer")
        parser.add_argument("--lr", type=float, required=True)
        for number in range(40):
            parser.add_argument(f"--a-long-option-{number}")
        parser.parse_args(["--lr", "fast"])
        """,
    "argparse, a sub-command": """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_subparsers().add_parser("fit").add_argument("data")
        parser.parse_args(["fit"])
        """,
    "argparse, while something was handled": """
        import argparse, logging
        try:
            1 / 0
        except ZeroDivisionError:
            logging.exception("never mind")
            argparse.ArgumentParser().parse_args(["--foo"])
        """,
}
WRITTEN = {
    "click": (
        2,
        "Usage: t.py [OPTIONS]\nTry 't.py --help' for help.\n\nError: No such option: -x\n",
    ),
    "typer": (
        2,
        (
            "Usage: t.py [OPTIONS]\nTry 't.py --help' for help.\n"
            "╭─ Error ───────────╮\n│ No such option: -x │\n╰───────────────────╯\n"
        ),
    ),
    "absl": (
        1,
        (
            "FATAL Flags parsing error: Unknown command line flag 'foo'. Did you mean: fo ?\n"
            "Pass --helpshort or --helpfull to see help on flags.\n"
        ),
    ),
    "absl, several lines": (
        1,
        (
            "2025-01-31 12:00:00.000001: I tensorflow/core/util/port.cc:153] oneDNN custom\n"
            "FATAL Flags parsing error:\n  flag --lr=x: invalid literal\n  more of it\n"
            "Pass --helpshort or --helpfull to see help on flags.\n"
        ),
    ),
}
"""The code and the words of click 8, of typer (rich's panel) and of absl-py 2."""


def ran(source: str, directory: Path) -> Attribution:
    (directory / "train.py").write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, "train.py"], capture_output=True, check=False, cwd=directory
    )
    return attribute_failure(
        status=ExitStatus(code=done.returncode),
        run_s=HOURS,
        stdout=done.stdout,
        stderr=done.stderr,
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_went_wrong_and_where_without_what_may_change(name: str, tmp_path: Path) -> None:
    found = ran(SCRIPTS[name][0], tmp_path)
    assert found.error == ERRORS[name]


def test_training_on_after_an_import_that_failed_is_no_import_error(tmp_path: Path) -> None:
    """What is certain to fail again is not started anew, and this may well not."""
    source = """
        def train():
            raise RuntimeError("step 812 was bad")
        try:
            import no_such_accelerator
        except ImportError:
            train()
        """
    found = ran(source, tmp_path)
    assert found.message.startswith("ModuleNotFoundError: ")
    assert found.error == "RuntimeError (train.py:3)"


def test_an_import_that_failed_and_was_wrapped_is_one(tmp_path: Path) -> None:
    source = """
        try:
            import no_such_accelerator
        except ImportError as error:
            raise RuntimeError("install it") from error
        """
    assert ran(source, tmp_path).error == "ModuleNotFoundError (train.py:3)"


def test_a_syntax_error_of_an_import_is_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def f():\n    return (1,\n")
    found = ran("import model\n", tmp_path)
    assert found.error == "SyntaxError (model.py:2)"


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_were_refused(name: str, tmp_path: Path) -> None:
    found = ran(REFUSED[name], tmp_path)
    assert found.error == USAGE_ERROR
    assert ": error: " in found.message
    assert "exit 2" in found.message


@pytest.mark.parametrize("name", WRITTEN)
def test_arguments_that_other_parsers_refused(name: str) -> None:
    code, text = WRITTEN[name]
    assert failed(text, code).error == USAGE_ERROR
    assert failed(text, 3 - code).error == "", "exit codes tell a parser from what quotes one"
    assert failed(text + "step 1\n", code).error == "", "it went on"


@pytest.mark.parametrize(
    "text",
    [
        "t.py: error: cannot reach the server\n",  # no usage
        "usage: t.py [-h]\n",  # no error
        "usage: t.py [-h]\nsomething else\n",
        "the usage: of\nt.py: error: no\n",
        "╭─ Error ─╮\n│ x │\n╰─────────╯\n",
        "",
    ],
)
def test_exit_2_alone_is_no_usage_error(text: str) -> None:
    assert failed(text, 2).error == ""


RAISED = 'Traceback (most recent call last):\n  File "/c/t.py", line 5, in f\nValueError: bad 17\n'


def test_no_exception_no_error() -> None:
    for found in (
        killed(signal.SIGKILL, RAISED),
        killed(signal.SIGTERM, RAISED),
        killed(signal.SIGSEGV, "Segmentation fault\n"),
        failed("loss is NaN\n", 3),
        failed("", 1),
        failed("sh: pythn: not found\n", 127),
        attribute_failure(status=ExitStatus(code=0), run_s=HOURS, stderr=RAISED.encode()),
    ):
        assert found.error == ""


def test_lack_of_memory_and_a_preemption_are_no_errors_of_the_script() -> None:
    before, after = MemoryReading(oom_kills=0), MemoryReading(oom_kills=1)
    short = attribute_failure(
        status=ExitStatus(code=137),
        run_s=HOURS,
        stderr=RAISED.encode(),
        memory_before=before,
        memory_after=after,
    )
    assert (short.out_of_memory, short.error) == (True, "")
    saved = failed(RAISED + "PreemptionCheckpointHandler: checkpoint saved. Exiting.\n", 42)
    assert (saved.checkpoint_saved, saved.error) == (True, "")


def test_a_checkpoint_whose_place_is_not_told_is_saved_all_the_same() -> None:
    """Where only stderr said it, without the path, it was not seen."""
    words = "PreemptionCheckpointHandler: checkpoint saved. Exiting.\n"
    for stderr, stdout in ((words, ""), ("", words), (words, "step 1\n")):
        found = failed(stderr, 42, stdout)
        assert found.checkpoint_saved
        assert found.message == (
            "checkpoint saved at preemption, restartable; exit 42 after 3 h 12 min"
        )


def test_a_crash_is_told_by_its_place() -> None:
    text = (
        "Fatal Python error: Segmentation fault\n\n"
        "Current thread 0x00007f (most recent call first):\n"
        '  File "/opt/ml/code/train.py", line 3 in crash\n'
    )
    assert killed(signal.SIGSEGV, text).error == "Fatal Python error (train.py:3)"
    assert killed(signal.SIGSEGV, UNCAUGHT).error == "ValueError (t.py:5)"


def test_a_class_is_told_without_its_module() -> None:
    text = RAISED.replace("ValueError", "my.data.<locals>.BadRow")
    assert failed(text).error == "BadRow (t.py:5)"


def test_of_frames_none_of_which_is_the_users_the_last_counts() -> None:
    text = RAISED.replace("/c/t.py", "/usr/lib/python3/site-packages/keras/fit.py")
    assert failed(text).error == "ValueError (fit.py:5)"


def test_an_error_is_bounded_and_of_one_plain_line() -> None:
    text = RAISED.replace("/c/t.py", "/c/" + "\u202e" + "x" * 300)
    found = failed(text)
    assert len(found.error) == attribution.ERROR_LIMIT
    assert found.error.isprintable()


def test_the_same_failure_has_the_same_error_whatever_its_message_says() -> None:
    one, other = (failed(RAISED.replace("17", number)) for number in ("17", "4711"))
    assert one.message != other.message
    assert one.error == other.error == "ValueError (t.py:5)"


@pytest.mark.parametrize("name", ["keras_fit", "assert_op", "py_function", "port_taken"])
def test_what_tensorflow_raised_has_a_place(name: str) -> None:
    found = failed((RECORDINGS / "tensorflow" / f"{name}.txt").read_text())
    kind = TENSORFLOW[name].partition(":")[0]
    assert re.fullmatch(rf"{kind} \(train\.py:\d+\)", found.error)


@given(st.binary(max_size=3000), st.integers(1, 255))
def test_an_error_is_a_short_line_whatever_was_said(data: bytes, code: int) -> None:
    for stderr in (data, RAISED.encode() + data, data + RAISED.encode()):
        error = attribute_failure(status=ExitStatus(code=code), run_s=1.0, stderr=stderr).error
        assert len(error) <= attribution.ERROR_LIMIT
        assert error.isprintable()


def test_the_detail_holds_the_users_own_frames(tmp_path: Path) -> None:
    """Library frames folded into one line, the marks under the code left out."""
    (tmp_path / "train.py").write_text("import json\ndef load():\n    json.loads('x')\nload()\n")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "train.py")], capture_output=True, check=False
    )
    found = attribute_failure(status=ExitStatus(code=1), run_s=HOURS, stderr=done.stderr)
    lines = found.detail.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{tmp_path}/train.py", line 4, in <module>'
    assert lines[3] == f'  File "{tmp_path}/train.py", line 3, in load'
    assert lines[5].startswith("  … ")
    assert lines[5].endswith(" in python")
    assert lines[6].startswith("json.decoder.JSONDecodeError: ")
    assert len(lines) == 7


def test_no_frame_of_ours_is_shown() -> None:
    ours = attribution.__file__.replace("children/attribution.py", "programs/parameter_server.py")
    text = (
        "Traceback (most recent call last):\n"
        f'  File "{ours}", line 9, in main\n    serve()\n'
        '  File "/usr/lib/python3/dist-packages/tensorflow/server.py", line 7, in start\n    x()\n'
        "tensorflow.errors_impl.UnknownError: Could not start gRPC server\n"
    )
    found = failed(text)
    assert found.message.startswith("UnknownError: Could not start gRPC server (server.py:7); ")
    assert "parameter_server.py" not in found.detail


def test_a_crash_with_faulthandler_shows_the_stack() -> None:
    text = (
        "Fatal Python error: Segmentation fault\n\n"
        "Current thread 0x00007f (most recent call first):\n"
        '  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at\n'
        '  File "/opt/ml/code/train.py", line 3 in crash\n'
        '  File "/opt/ml/code/train.py", line 4 in <module>\n'
    )
    found = killed(signal.SIGSEGV, text, core=True)
    assert found.message == (
        "Fatal Python error: Segmentation fault (train.py:3);"
        " killed by SIGSEGV (core dumped) after 3 h 12 min"
    )


UNCAUGHT = 'Traceback (most recent call last):\n  File "/c/t.py", line 5, in f\nValueError: bad\n'


@pytest.mark.parametrize(
    "end", ["", "2024-05-01 10:00:00.1: W tf: x\n", "Exception ignored in: g\n"]
)
def test_a_crash_while_the_interpreter_ends_is_explained_by_what_ended_it(end: str) -> None:
    found = killed(signal.SIGSEGV, UNCAUGHT + end)
    assert found.message == "ValueError: bad (t.py:5); killed by SIGSEGV after 3 h 12 min"
    assert 'File "/c/t.py", line 5, in f' in found.detail


@pytest.mark.parametrize(
    "text", [UNCAUGHT + "I0501 10:00:00 x\nstep 7\n", "ERROR: handled\n" + UNCAUGHT]
)
def test_a_crash_is_not_explained_by_an_exception_that_was_survived(text: str) -> None:
    assert "t.py:5" not in killed(signal.SIGSEGV, text).message


# ---------------------------------------------------------------------------- recorded words

GRAPH_ERROR = """\
Traceback (most recent call last):
  File "/opt/ml/code/train.py", line 8, in <module>
    step(a, b)
  File "/usr/lib/python3/site-packages/tensorflow/python/util/traceback_utils.py", line 153, in g
    raise e.with_traceback(filtered_tb) from None
tensorflow.python.framework.errors_impl.InvalidArgumentError: Graph execution error:

Detected at node MatMul defined at (most recent call last):
  File "/opt/ml/code/train.py", line 8, in <module>

  File "/opt/ml/code/train.py", line 7, in step

Matrix size-incompatible: In[0]: [2,3], In[1]: [2,3]
\t [[{{node MatMul}}]] [Op:__inference_step_12]
2024-05-01 10:00:00.000001: W tensorflow/core/local_rendezvous.cc:404] Cancelled
"""

RECORDED = {
    "graph": (GRAPH_ERROR, 1, "InvalidArgumentError: Matrix size-incompatible: In[0]: [2,3],"),
    "shell": ("./train.sh: line 3: pythn: command not found\n", 127, "./train.sh: line 3: pythn"),
    "silent": ("", 3, "exit 3 after 3 h 12 min"),
    "noise only": ("2024-05-01 10:00:00.1: W tf: x\n", 3, "2024-05-01 10:00:00.1: W tf: x; exit 3"),
    "rank prefix": (
        (
            "[rank0]: Traceback (most recent call last):\n"
            '[rank0]:   File "/c/train.py", line 5, in f\n[rank0]:     g()\n'
            "[rank0]: ValueError: bad\n"
        ),
        1,
        "ValueError: bad (train.py:5)",
    ),
    "coloured": (
        (
            "Traceback (most recent call last):\n"
            '  File \x1b[35m"/c/train.py"\x1b[0m, line \x1b[35m5\x1b[0m, in \x1b[35mf\x1b[0m\n'
            "    \x1b[31mg\x1b[0m()\n\x1b[1;35mValueError\x1b[0m: \x1b[35mbad\x1b[0m\n"
        ),
        1,
        "ValueError: bad (train.py:5)",
    ),
    "head lost": (
        '  File "/c/train.py", line 5, in f\n    g()\nValueError: bad\n',
        1,
        "ValueError: bad",
    ),
    "progress": ("epoch 1: 10%\repoch 1: 20%\rout of patience\n", 9, "out of patience; exit 9"),
    "windows": ("cannot open file\r\n", 9, "cannot open file; exit 9"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_last_words(name: str) -> None:
    text, code, sentence = RECORDED[name]
    assert failed(text, code).message.startswith(sentence)


TENSORFLOW = {
    "assert_op": "InvalidArgumentError: assertion failed: [label out of range]",
    "autograph": "ValueError: Dimensions must be equal, but are 3 and 2 for",
    "check_failed": "InvalidArgumentError: Value for attr 'Tindices' of float is not in the list",
    "check_numerics": "InvalidArgumentError: loss is not finite : Tensor had NaN values (train.py:",
    "checkpoint_missing": "RuntimeError: Unsuccessful TensorSliceReader constructor:",
    "checkpoint_reader": "RuntimeError: Unsuccessful TensorSliceReader constructor:",
    "device": "InvalidArgumentError: Could not satisfy device specification",
    "eager_shape": "InvalidArgumentError: Matrix size-incompatible: In[0]: [2,3], In[1]: [2,3] (",
    "enable_check_numerics": "InvalidArgumentError: Tensor had NaN values (train.py:",
    "graph_shape": "ValueError: Dimensions must be equal, but are 3 and 4 for",
    "keras_fit": "InvalidArgumentError: Received a label value of 9 which is outside the valid",
    "keras_input": "ValueError: Input 0 with name 'None' of layer 'dense' is incompatible",
    "keras_layer": "ValueError: Dimensions must be equal, but are 3 and 7 for",
    "mwms_keras1": "ValueError: Attempt to convert a value (PerReplica:{ (train.py:9)",
    "mwms_killed0": "UnavailableError: Collective ops is aborted by: Error reported from",
    "mwms_mismatch0": "UnavailableError: Collective ops is aborted by: Error reported from",
    "mwms_mismatch1": (
        "InternalError: Collective ops is aborted by: Collective instance 104 expected type 0 "
        "and data_type 3 but got type 0 and data_type 1 (train.py:"
    ),
    "mwms_raises0": "UnavailableError: Collective ops is aborted by: Error reported from",
    "oom": "ResourceExhaustedError: OOM when allocating tensor with shape[1048576,1048576]",
    "oom_graph": "ResourceExhaustedError: OOM when allocating tensor with shape[4000000,4000000]",
    "port_taken": "UnknownError: Could not start gRPC server (train.py:",
    "ps_killed0": "UnavailableError: failed to connect to all addresses; last error:",
    "py_function": "ValueError: bad row 17 (train.py:3)",
    "record_data_loss": "DataLossError: corrupted record at 0 (Is this even a TFRecord file?)",
    "record_missing": "NotFoundError: missing.tfrecord; No such file or directory (train.py:",
    "resolver": "ValueError: The `task_id` 7 exceeds the maximum id of worker. (train.py:",
    "saved_model": "OSError: SavedModel file does not exist at: /opt/ml/model/1/",
    "segv": "killed by SIGSEGV",
    "xla": "InvalidArgumentError: Detected unsupported operations when trying to compile graph",
}
"""Recorded of TensorFlow 2.21 and Keras 3.15, file → what the cause begins with."""
VICTIMS = {"mwms_killed0", "mwms_mismatch0", "mwms_raises0", "ps_killed0"}
"""Those that died of another process's end."""


def test_every_recording_is_in_the_table() -> None:
    assert {path.stem for path in (RECORDINGS / "tensorflow").glob("*.txt")} == set(TENSORFLOW)


@pytest.mark.parametrize("name", TENSORFLOW)
def test_what_tensorflow_says_went_wrong_is_the_cause(name: str) -> None:
    """Every host of a job said TensorFlow's fixed advice, "The error could be from a previous
    operation. Restart your program to reset.", and not what had happened."""
    status = ExitStatus(signum=signal.SIGSEGV) if name == "segv" else ExitStatus(code=1)
    stderr = (RECORDINGS / "tensorflow" / f"{name}.txt").read_bytes()
    found = attribute_failure(status=status, run_s=HOURS, stderr=stderr)
    assert found.message.startswith(TENSORFLOW[name])
    assert speaks_of_lost_peer(f"{found.message} {found.detail}") == (name in VICTIMS)
    for chatter in ("absl::InitializeLog", "cudart_stub", "cuInit", "ABORTED: Shutdown", "oneDNN"):
        assert chatter not in found.detail
    if "Collective ops" in TENSORFLOW[name]:
        assert "Collective ops is aborted by" in found.detail


def test_chatter_is_nobodys_last_word() -> None:
    """After SIGKILL the failure text was TensorFlow's start-up chatter, a dump of its options
    included, in place of what the script had said last."""
    chatter = (RECORDINGS / "tensorflow" / "segv.txt").read_text() + (
        "I0000 00:00:1795871965.909758    1327 eager_service_impl.cc:355] SessionOptions: x\n"
        'device_count {\n  key: "CPU"\n  value: 1\n}\nallow_soft_placement: true\n\n'
        "2025-01-31 12:00:00.000001: I tensorflow/core/util/port.cc:153] oneDNN custom\n"
    )
    found = attribute_failure(
        status=ExitStatus(signum=9), run_s=HOURS, stdout=b"step 1\n", stderr=chatter.encode()
    )
    assert found.detail == "step 1"
    assert failed(chatter, 3).message == "exit 3 after 3 h 12 min"
    said = failed(chatter + "out of patience\n" + chatter, 3)
    assert said.message == "out of patience; exit 3 after 3 h 12 min"
    assert said.detail == "out of patience"


def test_a_failed_check_of_cpp_is_the_cause() -> None:
    text = (
        "F0000 00:00:1795871965.615108   27913 tensor.cc:852] Check failed: IsAligned() ptr = 0x1\n"
        "*** Check failure stack trace: ***\n    @     0x7f3c  (unknown)\n"
    )
    assert killed(signal.SIGABRT, text).message.startswith(
        "Check failed: IsAligned() ptr = 0x1; killed by SIGABRT"
    )


def test_what_has_begun_does_not_fail_to_start() -> None:
    """``(start-up failure)`` was said of scripts that had trained steps, in their first 5 s."""
    trace = 'Traceback (most recent call last):\n  File "/c/t.py", line 5, in f\nValueError: bad\n'
    chatter = (RECORDINGS / "tensorflow" / "segv.txt").read_text()
    assert "start-up" in failed(trace, run_s=0.8).message
    assert "start-up" in failed(chatter + trace, run_s=0.8).message
    assert "start-up" not in failed(trace, run_s=0.8, stdout="step 1\n").message
    assert "start-up" not in failed("INFO:root:step 1\n" + trace, run_s=0.8).message
    saved = attribute_failure(
        status=ExitStatus(code=1), run_s=0.8, stderr=trace.encode(), progressed=True
    ).message
    assert "start-up" not in saved


def test_a_traceback_on_stdout_counts_where_stderr_has_none() -> None:
    text = 'Traceback (most recent call last):\n  File "/c/train.py", line 5, in f\nE: bad\n'
    assert failed(stdout=text).message == "E: bad (train.py:5); exit 1 after 3 h 12 min"
    assert failed(stdout="no GPU\n", code=4).message == (
        "last output: no GPU; exit 4 after 3 h 12 min"
    )


# ---------------------------------------------------------------------------- endings


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0.0 s"),
        (0.44, "0.4 s"),
        (12.2, "12 s"),
        (59.6, "1 min"),
        (303.0, "5 min 3 s"),
        (HOURS, "3 h 12 min"),
        (187200.0, "2 d 4 h"),
        (-1.0, "0.0 s"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert attribution.format_duration(seconds) == said


def test_an_early_failure_is_one_of_start_up() -> None:
    assert failed("bad flag\n", 2, run_s=0.8).message == (
        "bad flag; exit 2 after 0.8 s (start-up failure)"
    )
    assert "start-up" not in attribute_failure(status=ExitStatus(code=0), run_s=0.8).message


def test_success_has_no_cause() -> None:
    found = attribute_failure(
        status=ExitStatus(code=0), run_s=60, stderr=b"Traceback (most recent call last):"
    )
    assert found == Attribution("exit 0 after 1 min")


def test_a_kill_of_ours_is_marked_and_not_blamed() -> None:
    found = killed(signal.SIGKILL, "saving…\n", because="its grace of 30 s was over")
    assert found.message == (
        "killed by SIGKILL after 3 h 12 min,"
        " sent by the supervisor because its grace of 30 s was over"
    )
    assert found.detail == "saving…"


def test_a_kill_from_outside_is_not_explained_by_what_was_said_before() -> None:
    logged = 'Traceback (most recent call last):\n  File "/c/t.py", line 5, in f\nE: handled\n'
    found = killed(signal.SIGKILL, logged + "step 100\n")
    assert found.message == "killed by SIGKILL after 3 h 12 min"
    assert "step 100" in found.detail


def test_a_shells_code_for_a_signal_is_translated() -> None:
    assert failed(code=143).message.endswith(
        "exit 143 after 3 h 12 min; a shell says that for SIGTERM"
    )


SAVED = (
    "INFO:tensorflow:PreemptionCheckpointHandler: Starting saving a checkpoint.\n"
    "INFO:tensorflow:Checkpoint finished at path /opt/ml/checkpoints/ckpt-7\n"
    "INFO:tensorflow:PreemptionCheckpointHandler: checkpoint saved. Exiting.\n"
)


@pytest.mark.parametrize("code", [42, 143])
def test_a_saved_checkpoint_is_recognised_by_its_log_and_its_code(code: int) -> None:
    found = failed(SAVED, code)
    assert found.checkpoint_saved
    assert found.message.startswith(
        "checkpoint saved at preemption, restartable (/opt/ml/checkpoints/ckpt-7); exit "
    )
    assert not failed("no such words\n", code).checkpoint_saved
    assert not failed(SAVED, 1).checkpoint_saved


def test_a_full_disk_is_said_where_the_cause_does_not() -> None:
    text = "tar: model.tar: Cannot write: No space left on device\ntar: Error is not recoverable\n"
    found = failed(text, 2)
    assert found.no_space
    assert found.message.endswith("; a disk is full (No space left on device)")


# ---------------------------------------------------------------------------- memory

BEFORE = MemoryReading(2, 64 << 20, 10 << 20, 9 << 20)
AFTER = MemoryReading(3, 64 << 20, 64 << 20, 1 << 20)


def with_memory(status: ExitStatus, after: MemoryReading, because: str = "") -> Attribution:
    return attribute_failure(
        status=status,
        run_s=HOURS,
        stderr=b"step 1\n",
        memory_before=BEFORE,
        memory_after=after,
        stopped_because=because,
    )


@pytest.mark.parametrize("status", [ExitStatus(signum=9), ExitStatus(code=137)])
def test_out_of_memory_is_said_with_limit_and_peak(status: ExitStatus) -> None:
    found = with_memory(status, AFTER)
    assert found.out_of_memory
    assert found.message.startswith("out of memory (limit 64 MiB, peak 64 MiB); ")


def test_out_of_memory_is_not_guessed() -> None:
    """At its limit, killed by SIGKILL, but the kernel's counter has not moved."""
    found = with_memory(ExitStatus(signum=9), MemoryReading(2, 64 << 20, 64 << 20))
    assert not found.out_of_memory
    assert found.message == "killed by SIGKILL after 3 h 12 min"


def test_another_process_killed_for_memory_is_mentioned() -> None:
    found = with_memory(ExitStatus(code=1), AFTER)
    assert "out of memory: 1 of its processes killed by the kernel (limit 64 MiB" in found.message
    ours = with_memory(ExitStatus(signum=9), AFTER, because="its grace was over")
    assert not ours.message.startswith("out of memory")


def test_a_real_kill_for_memory_is_read_from_the_kernel() -> None:
    """A version 1 cgroup with a limit of 32 MiB, and a child that wants more."""
    directory = Path(f"/sys/fs/cgroup/memory/supervisor-test-{os.getpid()}")
    try:
        directory.mkdir()
        (directory / "memory.limit_in_bytes").write_text(str(32 << 20))
    except OSError as error:
        pytest.skip(f"no memory cgroup of version 1 to be made here: {error}")
    try:
        ours = cgroup.MemoryCgroup((str(directory),), 1)
        before = ours.read()
        program = f"exec {sys.executable} -c 'bytearray(1 << 28)'"
        script = f"echo $$ > {directory}/cgroup.procs; {program}"
        done = subprocess.run(["/bin/sh", "-c", script], check=False, capture_output=True)
        after = ours.read()
    finally:
        directory.rmdir()
    found = attribute_failure(
        status=ExitStatus(signum=-done.returncode),
        run_s=HOURS,
        stderr=done.stderr,
        memory_before=before,
        memory_after=after,
    )
    assert found.message == (
        "out of memory (limit 32 MiB, peak 32 MiB); killed by SIGKILL after 3 h 12 min"
    )


def test_the_cached_files_are_those_of_the_limit_that_is_told(tmp_path: Path) -> None:
    """They were our own group's, taken off the usage of the group above that has the limit."""
    for name, usage, limit, cached in (("ours", 10, "max", 1), ("above", 90, "100", 30)):
        (tmp_path / name).mkdir()
        for file, text in {
            "memory.events": "oom_kill 0\n",
            "memory.max": limit,
            "memory.current": str(usage),
            "memory.stat": f"anon 5\ninactive_file {cached}\n",
        }.items():
            (tmp_path / name / file).write_text(text)
    group = cgroup.MemoryCgroup((str(tmp_path / "ours"), str(tmp_path / "above")), 2)
    assert group.read() == MemoryReading(0, 100, None, 90)
    assert group.reclaimable_bytes() == 30
    assert cgroup.MemoryCgroup((str(tmp_path / "ours"),), 2).reclaimable_bytes() == 1


def test_recorded_files_of_both_versions() -> None:
    v2 = memory.parse_v2(
        "low 0\nhigh 0\nmax 41\noom 2\noom_kill 1\noom_group_kill 0\n",
        "67108864\n",
        "67108864\n",
        "1048576\n",
    )
    assert v2 == MemoryReading(1, 64 << 20, 64 << 20, 1 << 20)
    v1 = memory.parse_v1(
        "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", "9223372036854771712\n", "1048576\n", None
    )
    assert v1 == MemoryReading(4, None, 1 << 20, None)
    assert memory.parse_v2("low 0\n", None, None, None) is None
    assert memory.parse_v1(None, "1", "1", "1") is None
    assert memory.parse_v2("oom_kill 0\n", "max\n", None, "") == MemoryReading(0)


@pytest.mark.parametrize(
    ("membership", "mounts", "found"),
    [
        (
            "0::/\n",
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw\n",
            [(2, "/sys/fs/cgroup", "/sys/fs/cgroup")],
        ),
        (
            "0::/system.slice/docker-1.scope\n",
            "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
            [(2, "/sys/fs/cgroup", "/sys/fs/cgroup/system.slice/docker-1.scope")],
        ),
        (
            "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n",
            "31 30 0:27 /docker/1 /sys/fs/cgroup/memory ro master:9 - cgroup cgroup rw,memory\n",
            [(1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory")],
        ),
        (
            "0::/../../other\n",
            "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
            [(2, "/sys/fs/cgroup", "/sys/fs/cgroup")],
        ),
        ("nonsense\n", "nonsense\n", []),
    ],
)
def test_the_cgroup_is_found_in_recorded_mounts(
    membership: str, mounts: str, found: list[tuple[int, str, str]]
) -> None:
    assert cgroup.locate(membership, mounts) == found


def test_our_own_cgroup_is_read() -> None:
    reading = cgroup.read_memory_cgroup()
    if reading is None:
        pytest.skip("no memory controller here")
    assert reading.oom_kills >= 0
    assert reading.usage_bytes is None or reading.usage_bytes > 0


# ---------------------------------------------------------------------------- any bytes

HEAD = b"Traceback (most recent call last):\n"
FRAME = b'  File "/x/a.py", line 3, in f\n    foo()\n'
CONTEXT = b"\nDuring handling of the above exception, another exception occurred:\n\n"
GROUP = b"  + Exception Group Traceback (most recent call last):\n"
PIECES = [
    *(HEAD, FRAME, CONTEXT, GROUP, b"ValueError: x\n", b"\n", b"\r", b"\r\n", b"\x1b[", b"\x1b]"),
    *(b"\x1b[31m", b"  | ", b"  +-+---------------- 1 ----------------\n", b"x", b" ", b"\0"),
    *(b"\xff", "\u202e".encode(), "é".encode(), b"\nSyntaxError: ", b"Fatal Python error: x\n"),
    *(
        b"a.B: Graph execution error:\n",
        b"[[{{node",
        b"ERROR:root:x\n",
        b"Exception ignored in: x\n",
    ),
    *(b"No space left on device", b"PreemptionCheckpointHandler: checkpoint saved. Exiting.\n"),
    *(b"a.", b"<locals>.", b"[", b"(2 sub-exceptions)", b"Node: ", b"\t"),
]
STATUSES = st.one_of(
    st.integers(0, 255).map(lambda code: ExitStatus(code=code)),
    st.integers(1, 64).map(lambda signum: ExitStatus(signum=signum)),
)
TAILS = st.one_of(
    st.binary(max_size=2000),
    st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join),
)


@settings(max_examples=400, deadline=None)
@given(status=STATUSES, stdout=TAILS, stderr=TAILS, run_s=st.floats(0, 1e7), because=st.text())
def test_whatever_was_said_the_attribution_is_bounded_and_clean(
    status: ExitStatus, stdout: bytes, stderr: bytes, run_s: float, because: str
) -> None:
    found = attribute_failure(
        status=status, run_s=run_s, stdout=stdout, stderr=stderr, stopped_because=because
    )
    assert 0 < len(found.message) <= attribution.MESSAGE_LIMIT
    assert len(found.detail) <= attribution.DETAIL_LIMIT
    assert found.message.isprintable()
    assert found.detail.replace("\n", "").isprintable()
    assert str(status.shell_code) in found.message or "killed by" in found.message


@pytest.mark.parametrize("piece", PIECES, ids=[repr(p[:20]) for p in PIECES])
def test_time_is_linear_in_the_tail(piece: bytes) -> None:
    """64 KiB of each of the pieces; some milliseconds of CPU, where a square would take minutes."""
    tail = piece * (65536 // len(piece))
    tails = (tail, HEAD + tail, HEAD + FRAME + b"E: " + tail)
    for data in tails:
        started = time.process_time()
        attribute_failure(status=ExitStatus(code=1), run_s=1, stderr=data)
        attribute_failure(status=ExitStatus(signum=11), run_s=1, stderr=data)
        assert time.process_time() - started < 1
