"""Failure attribution: why a process ended, by its last words and the kernel's counters.

Pure, and bounded. ``attribute_failure`` turns the tails of stdout and stderr, the exit status and
the readings of the memory cgroup into one sentence and a few lines of detail, without the script's
cooperation. What is said is proven: "out of memory" only if the kernel's counter of such kills has
moved, "sent by the supervisor" only if it was.

Every search goes from the end, with ``rfind`` and bounded windows: time is linear in the tail
whatever is in it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from supervisor.life.attempts import RESTART_CODES, SELF_MADE, USAGE_ERROR
from supervisor.life.words import ExitStatus, signal_name
from supervisor.linux import memory
from supervisor.linux.memory import MemoryReading

MESSAGE_LIMIT = 300
"""Characters of ``Attribution.message``."""

DETAIL_LIMIT = 4096
"""Characters of ``Attribution.detail``."""

ERROR_LIMIT = 200
"""Characters of ``Attribution.error``."""

STARTUP_S = 5.0
"""A failure earlier than this, of a script that had said and saved nothing, is one of start-up."""

LAST_LINES = 20
"""Lines of output in the detail at most."""

_TAIL_LIMIT = 1 << 16
_LINE_LIMIT = 400
_BLOCK_LINES = 2000
_CHAIN_LIMIT = 16
_MESSAGE_LINES = 20
_FIRST_FRAMES = 2
_LAST_FRAMES = 8

_HEAD = "Traceback (most recent call last):"
_GROUP_HEAD = "Exception Group Traceback (most recent call last):"
_DIRECT = "The above exception was the direct cause of the following exception:"
_SEPARATORS = (
    _DIRECT,
    "During handling of the above exception, another exception occurred:",
)

_ESCAPES = re.compile(
    rb"(?:\x1b(?:\[[0-?]*+[ -/]*+[@-~]?"
    rb"|\][^\x07\x1b]*+(?:\x07|\x1b\\)?|[PX^_][^\x1b]*+(?:\x1b\\)?|[ -~])?)++"
)
"""ECMA-48 control sequences: CSI, OSC, the other strings, two-character ones; whole or cut."""

_CONTROLS = bytes(b for b in range(32) if b not in b"\t\n\r") + b"\x7f"
_FRAME = re.compile(r'  File "([^"\n]*)", line (\d+)(?:, in (.*))?')
_EXCEPTION = re.compile(r"([^\W\d]\w*(?:\.(?:[^\W\d]\w*|<locals>|<lambda>))*)(?:: ?(.*))?")
_MARGIN = re.compile(r" +[+|] ?")
_GROUP_END = re.compile(r"\(\d+ sub-exceptions?\)$")
_BOUNDARY = re.compile(r"(?:-\+)?-{12}")
_LOG_LINE = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d"  # TensorFlow's C++, logging's default time, ISO
    r"|[IWEF]\d{4,8} \d\d:\d\d:\d\d"  # glog and absl
    r"|(?:DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)\b[:\s]"
    r"|\[[^\]]{0,80}\] (?:DEBUG|INFO|WARNING|WARN)"
)
_CPP_LINE = re.compile(
    r"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: ([IWEF]) \S+\.(?:cc|h|cpp|cu):\d+\]"
    r"|([IWEF])\d{4} \d\d:\d\d:[\d.]+ +\d+ \S+\.(?:cc|h|cpp|cu):\d+\])"
)
"""A message of TensorFlow's C++; Python's absl logs the same, with a ``.py``."""
_UNLEVELLED = re.compile(
    r"WARNING: All log messages before absl::InitializeLog\(\) is called"
    r"|To enable the following instructions: "
)
_KNOWN_CHATTER = re.compile(
    r"UNKNOWN ERROR \(303\)|Unable to register cu\w+ (?:factory|plugin)|cudart_stub|TF-TRT Warning"
    r"|aborting with status: (?:ABORTED: (?:Shutdown|Cleanup)|CANCELLED|OUT_OF_RANGE)"
    r"|computation placer already registered|NUMA node|will not be optimized because"
    r"|This could happen if the remote target has been disconnected"
)
"""Warnings and errors that TensorFlow logs in runs that are sound."""
_CONTINUED = re.compile(
    r"[ \t]|\S*\}$|\w+ \{$|(?!error|fatal)[a-z]\w*: (?:\"[^\"]*\"|[\w.-]+)$|/job:\S+$|$"
)
"""What goes on with a message of C++: indented, or a dump of a protocol buffer."""
_LOGGED_ERROR = re.compile(r"(?:\b|_)(?:ERROR|CRITICAL|FATAL)\b|^E\d{4}|: E ")
_NOISE = re.compile(
    r"Exception ignored in|terminate called|Aborted|Segmentation fault|sys:1: "
    r"|.{0,400}Warning: |  warnings\.warn|During handling|Error in atexit"
)
_LIBRARY = re.compile(r"(?:^|/)(?:site-packages|dist-packages)/([^/.]+)")
_STANDARD = re.compile(r"(?:^|/)lib(?:64)?/python\d[^/]*/")
_SECOND_HAND = re.compile(
    r"Exception in thread |Process [\w-]+:|.{0,40}[Tt]ask exception was never"
)
_CANDIDATES = 32
_FATAL = "Fatal Python error: "
_GRAPH_ERROR = "Graph execution error"
_ADVICE = re.compile(
    r"The error could be from a previous operation\. Restart your program to reset\."
    r"|Additional GRPC error information from remote target|:UNKNOWN:Error received from peer"
    r"|This could happen if the remote target has been disconnected|Hint: |0 successful operations"
    r"|\d+ derived errors? ignored|The tasks have crashed\. Check the task logs"
    r"|<stack traces unavailable>|This isn't available when running in Eager mode"
    r"|\d+ root error\(s\) found|/job:\S+$|Arguments received by |Call arguments received by "
    r"|Exception encountered when calling |Could not automatically infer the output shape"
)
"""Lines of TensorFlow's and Keras's messages that are the same whatever happened."""
_NODE_HEAD = re.compile(r"(?:Detected at node|node) .* defined at \(most recent call last\)")
_ROOT = re.compile(r"^\(\d+\) +[A-Z_]+: +")
_TRACED = "in user code:"
_INNER = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception): ")
_FUNCTION_NODE = re.compile(r"\{\{function_node [^}]*\}\} ?")
_OP = re.compile(r"(?: \[\[\{\{node .*\]\])?(?: \[Op:\w+\](?: name: ?\S*)?| name: ?)+$")
_NO_SPACE = ("No space left on device", "Disk quota exceeded")

_OURS = __file__.rpartition("/children/")[0] + "/"


@dataclass(frozen=True, slots=True)
class Attribution:
    """What is known about an end. ``message`` is one line, ``detail`` may be many or none."""

    message: str
    detail: str = ""
    out_of_memory: bool = False
    """The kernel killed the process, or one of its own, for lack of memory."""
    no_space: bool = False
    """Its last words say that a disk is full."""
    checkpoint_saved: bool = False
    """TensorFlow's PreemptionCheckpointHandler saved, and asked to be restarted."""
    error: str = ""
    """What went wrong, and where, without what changes from one time to the next: the class of the
    exception that ``message`` names and its place, ``ValueError (train.py:88)``, or ``usage error``
    for arguments that were refused. Empty where neither is the cause."""


@dataclass(frozen=True, slots=True)
class _Frame:
    file: str
    line: str
    function: str | None
    body: tuple[str, ...]

    @property
    def ours(self) -> bool:
        return self.file.startswith(_OURS)

    @property
    def users(self) -> bool:
        """Whether the file is the user's: no library's, not Python's own, not ours."""
        return not (
            self.ours
            or self.file.startswith("<")
            or "__autograph_generated_file" in self.file  # a copy of the user's, gone by now
            or _LIBRARY.search(self.file)
            or _STANDARD.search(self.file)
        )

    @property
    def library(self) -> str:
        if (found := _LIBRARY.search(self.file)) is not None:
            return found[1]
        return "" if self.ours else "python"

    @property
    def place(self) -> str:
        return f"{self.file.rpartition('/')[2]}:{self.line}"


@dataclass(frozen=True, slots=True)
class _Raised:
    """One exception with its traceback."""

    kind: str
    text: tuple[str, ...]
    """Its message, by lines; the first is what follows the name."""
    frames: tuple[_Frame, ...]
    start: int
    """Where it begins in the text."""
    end: int
    """Where what belongs to it ends."""
    message_at: int = 0
    """Where the line after the class and the first line of the message begins."""
    inner: tuple[_Raised, ...] = field(default=())
    """The first leaf of a group."""

    @property
    def place(self) -> str:
        users = [f for f in self.frames if f.users]
        if users:
            return users[-1].place
        others = [f for f in self.frames if not f.ours]
        return others[-1].place if others else ""

    @property
    def error(self) -> str:
        """``RuntimeError (train.py:88)``: no words of the message, which may change."""
        if self.inner:
            return self.inner[0].error
        kind = self.kind.rpartition(".")[2]
        return f"{kind} ({self.place})" if kind and self.place else kind

    @property
    def sentence(self) -> str:
        """``RuntimeError: loss is NaN (train.py:88)``."""
        kind = self.kind.rpartition(".")[2]
        text = _one_line(self.text)
        said = f"{kind}: {text}" if text and kind else kind or text
        if self.inner:
            said = f"{said}: {self.inner[0].sentence}"
        elif self.place:
            said = f"{_shorten(said, MESSAGE_LIMIT // 2)} ({self.place})"
        return said


def attribute_failure(
    *,
    status: ExitStatus,
    run_s: float,
    stdout: bytes = b"",
    stderr: bytes = b"",
    memory_before: MemoryReading | None = None,
    memory_after: MemoryReading | None = None,
    stopped_because: str = "",
    checkpoint: str = "",
    progressed: bool = False,
) -> Attribution:
    """Say why a process ended.

    Args:
        status: how it ended.
        run_s: seconds from its start to its end.
        stdout: the end of its output, drained; any bytes. The last 64 KiB count.
        stderr: the same.
        memory_before: its memory cgroup when it was started.
        memory_after: the same after its end.
        stopped_because: if we sent it the signal that ended it: why, as in "the grace of 30 s was
            over". Its death is then not blamed on it.
        checkpoint: one that it wrote after we had asked it to stop, if it did.
        progressed: it is known to have got beyond its start, by a checkpoint that it wrote.

    """
    errors, output = (_without_chatter(_decode(tail)) for tail in (stderr, stdout))
    raised, source = _find_raised(errors), errors
    if raised is None:
        raised, source = _find_raised(output), output
    before = errors[: raised.start] if raised is not None and source is errors else ""
    began = progressed or bool(output.strip() or before.strip())
    ending = _ending(status, run_s, stopped_because, startup=not began)
    if status.ok:
        return Attribution(_compose("", ending))
    kills = memory.oom_kills_between(memory_before, memory_after)
    refused = _refused_arguments(status, errors)
    if raised is not None and (refused or not _explains(raised, status, source)):
        raised = None
    chain = _chain(source, raised) if raised is not None else ()
    no_space = _says_no_space(errors) or _says_no_space(output)
    saved = _saved_checkpoint(status, errors)
    if not saved:
        told = _saved_checkpoint(status, output)
        saved = saved if told is None else told
    if not saved and checkpoint and status.code in RESTART_CODES:
        saved = checkpoint  # TensorFlow's own words about it are below its default log level
    if saved is not None:
        cause = "checkpoint saved at preemption, restartable" + (f" ({saved})" if saved else "")
    elif kills and memory_after is not None and _died_of_memory(status, stopped_because):
        cause = f"out of memory ({memory.limit_and_peak(memory_after)})"
        chain = ()
    else:
        cause = _cause(status, (errors, output), source, chain, ours=bool(stopped_because))
        if kills and memory_after is not None:
            ending += (
                f"; out of memory: {kills} of its processes killed by the kernel"
                f" ({memory.limit_and_peak(memory_after)})"
            )
        elif no_space and not any(words in cause for words in _NO_SPACE):
            ending += "; a disk is full (No space left on device)"
    error = USAGE_ERROR if refused else ""
    if chain and saved is None:
        error = _error(status, source, chain)
    return Attribution(
        _compose(ending, cause) if stopped_because and cause else _compose(cause, ending),
        _detail(source, chain, errors, output),
        out_of_memory=bool(kills),
        no_space=no_space,
        checkpoint_saved=saved is not None,
        error=error,
    )


def format_duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``5 min 3 s``, ``3 h 12 min``, ``2 d 4 h``."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    if whole < 48 * 3600:
        return _two(whole // 3600, "h", whole % 3600 // 60, "min")
    return _two(whole // 86400, "d", whole % 86400 // 3600, "h")


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big} {big_unit}" + (f" {small} {small_unit}" if small else "")


# ---------------------------------------------------------------------------- the sentence


def _ending(status: ExitStatus, run_s: float, stopped_because: str, *, startup: bool) -> str:
    said = f"{status} after {format_duration(run_s)}"
    if stopped_because:
        if status.signum is not None:
            return f"{said}, sent by the supervisor because {_clean(stopped_because)}"
        return f"{said}, stopped because {_clean(stopped_because)}"
    if startup and not status.ok and run_s < STARTUP_S:
        said += " (start-up failure)"
    if status.code is not None and 128 < status.code <= 128 + 64:
        said += f"; a shell says that for {signal_name(status.code - 128)}"
    return said


def _explains(raised: _Raised, status: ExitStatus, text: str) -> bool:
    """Whether an exception can be why: a death by signal is not explained by one told before.

    But one that ended the program stands last, and an interpreter that then ends beside threads
    of native code can crash: seen with TensorFlow's servers, by SIGSEGV.
    """
    if status.signum is None:
        return True
    if status.signum == signal.SIGINT:
        return raised.kind == "KeyboardInterrupt"
    if status.signum not in SELF_MADE:
        return False
    if raised.kind == _FATAL.rstrip(": "):
        return True
    return not (_was_logged(text, raised.start) or _last_plain_line(text, raised.end))


def _died_of_memory(status: ExitStatus, stopped_because: str) -> bool:
    """Whether the process itself is what the kernel killed: by SIGKILL that was not ours.

    A shell or launcher around it tells the same as 137.
    """
    return not stopped_because and (status.signum == signal.SIGKILL or status.code == 137)


def _cause(
    status: ExitStatus,
    texts: tuple[str, str],
    source: str,
    chain: Sequence[_Raised],
    *,
    ours: bool,
) -> str:
    errors, output = texts
    if chain:
        root, last = chain[0], chain[-1]
        if later := _words_of_exit(status, source, chain):
            return later
        if root is not last:
            outcome = f"{last.kind.rpartition('.')[2]}: {_one_line(last.text)}".rstrip(": ")
            return f"{_shorten(root.sentence, 170)}, which led to {outcome}"
        return root.sentence
    if ours:
        return ""
    if status.signum is not None and status.signum not in SELF_MADE:
        # Killed from outside in the middle of anything: its last line is no cause.
        return ""
    if line := _fatal_line(errors) or _last_plain_line(errors, 0) or _last_line(errors):
        return line
    if line := _last_plain_line(output, 0) or _last_line(output):
        return f"last output: {line}"
    return ""


def _words_of_exit(status: ExitStatus, source: str, chain: Sequence[_Raised]) -> str:
    """``sys.exit("words")`` some time after a handled error was logged: the words are the cause."""
    if status.code == 1 and _was_logged(source, chain[0].start):
        return _last_plain_line(source, chain[-1].message_at)
    return ""


def _error(status: ExitStatus, source: str, chain: Sequence[_Raised]) -> str:
    """See ``Attribution.error``.

    Of a chain it is the exception that led to the others as their direct cause. What was merely
    being handled when they were raised is none: a script that trains on in the ``except`` of an
    ImportError has not failed by that, and may well fail otherwise the next time.
    """
    if _words_of_exit(status, source, chain):
        return ""
    at = len(chain) - 1
    while at and source[: chain[at].start].rstrip().endswith(_DIRECT):
        at -= 1
    return _shorten(_clean(chain[at].error), ERROR_LIMIT)


def _refused_arguments(status: ExitStatus, errors: str) -> bool:
    """Whether a script was ended for its arguments: by argparse, click, typer (exit 2), absl (1).

    Their words stand last. Who says more after them has gone on.
    """
    lines = _lines_from_end(errors, 0, LAST_LINES)
    if status.code == 1:
        return lines[:1] == [_ABSL_LAST] and any(line.startswith(_ABSL_FIRST) for line in lines)
    if status.code != 2 or not lines or _USAGE.search(errors) is None:
        return False
    if lines[0].startswith("╰"):  # typer's box
        return any(line.startswith("╭─ Error ") for line in lines)
    return _USAGE_ERROR.match(lines[0]) is not None


_USAGE = re.compile(r"^[Uu]sage: ", re.MULTILINE)
_USAGE_ERROR = re.compile(r"(?:\S.{0,200}: error|Error): ")
"""argparse.ArgumentParser.error, click.exceptions.UsageError.show."""
_ABSL_FIRST = "FATAL Flags parsing error:"
_ABSL_LAST = "Pass --helpshort or --helpfull to see help on flags."
"""absl.app.parse_flags_with_usage."""


def _compose(first: str, second: str) -> str:
    """Two halves of a sentence; where both are long, each gives way to the other's first half."""
    first, second = (
        _clean(part).replace("\n", " ").strip().rstrip(";") for part in (first, second)
    )
    if not first or not second:
        return _shorten(first or second, MESSAGE_LIMIT)
    half = MESSAGE_LIMIT // 2 - 1
    first = _shorten(first, max(half, MESSAGE_LIMIT - 2 - len(second)))
    return f"{first}; {_shorten(second, MESSAGE_LIMIT - 2 - len(first))}"


def _saved_checkpoint(status: ExitStatus, text: str) -> str | None:
    """The path that was saved ("" if it is not told), None if nothing says that it was.

    The lines are those of tensorflow/python/distribute/failure_handling/failure_handling.py.
    """
    if status.code not in RESTART_CODES:
        return None
    if (
        "PreemptionCheckpointHandler: checkpoint saved. Exiting." not in text
        and "Restarting cluster due to preemption." not in text
    ):
        return None
    words = "Checkpoint finished at path "
    at = text.rfind(words)
    return "" if at < 0 else _shorten(_clean(_line_at(text, at + len(words))), 120)


def _says_no_space(text: str) -> bool:
    recent = text[-8192:]
    return any(words in recent for words in _NO_SPACE)


# ---------------------------------------------------------------------------- tracebacks


def _find_raised(text: str) -> _Raised | None:
    """The exception that ended the program, as far as the text tells: the last uncaught one.

    Passed over: what happened in destructors and at exit ("Exception ignored in"). Second choice:
    what ended a thread or a child process, and what was logged.
    """
    second: _Raised | None = None
    before = len(text)
    fatal = text.rfind(_FATAL)
    syntax = _find_syntax_error(text)
    for _ in range(_CANDIDATES):
        at = text.rfind(_HEAD, 0, before)
        if fatal > at:
            return _parse_fatal(text, fatal)
        if syntax is not None and syntax.start > at:
            return syntax
        if at < 0:
            break
        start = text.rfind("\n", 0, at) + 1
        margin = text[start:at]
        grouped = "|" in margin or margin.lstrip(" ").startswith("+ Exception Group")
        raised = _parse_group(text, at) if grouped else _parse_block(text, start, margin)
        if raised is None:
            before = at
            continue
        before = min(at, raised.start)
        chain = _chain(text, raised)
        first = chain[0].start
        introduction = _line_before(text, first)
        if introduction.startswith("Exception ignored"):
            before = min(before, first)
            continue
        if _SECOND_HAND.match(introduction) or _LOGGED_ERROR.search(introduction):
            second = second or raised
            before = min(before, first)
            continue
        return raised
    return second


def _parse_block(text: str, start: int, margin: str, limit: int | None = None) -> _Raised | None:
    """A traceback that begins with its head line at ``start``, behind ``margin`` on each line."""
    stop = min(len(text) if limit is None else limit, start + _TAIL_LIMIT)
    at = _next_line(text, start, stop)
    frames: list[_Frame] = []
    for _ in range(_BLOCK_LINES):
        if at >= stop:
            break
        line = _line_at(text, at, stop).removeprefix(margin)
        if (found := _FRAME.fullmatch(line)) is not None:
            frames.append(_Frame(found[1], found[2], found[3], ()))
        elif line.startswith(" ") and frames:
            last = frames[-1]
            if len(last.body) < 3:
                frames[-1] = _Frame(last.file, last.line, last.function, (*last.body, line))
        elif line.strip():
            return _parse_exception(text, at, (start, stop), margin, tuple(frames))
        at = _next_line(text, at, stop)
    if not frames:
        return None
    return _Raised("", (), tuple(frames), start, min(at, stop))


def _parse_exception(
    text: str, at: int, span: tuple[int, int], margin: str, frames: tuple[_Frame, ...]
) -> _Raised:
    """The lines after the frames: the class, the message, which may go on for lines."""
    start, stop = span
    line = _line_at(text, at, stop).removeprefix(margin)
    found = _EXCEPTION.fullmatch(line)
    kind, first = (found[1], found[2] or "") if found is not None else ("", line)
    lines = [first]
    at = _next_line(text, at, stop)
    end = message_at = at
    blanks = 0
    traced = first == _TRACED
    if first.startswith(_GRAPH_ERROR) and (said := _graph_error(text, at, stop)) is not None:
        return _Raised(kind, (first, *said[0]), frames, start, said[1], message_at)
    for _ in range(_MESSAGE_LINES):
        if at >= stop:
            break
        line = _line_at(text, at, stop).removeprefix(margin)
        if _HEAD in line or line in _SEPARATORS or _LOG_LINE.match(line) or _NOISE.match(line):
            break
        at = _next_line(text, at, stop)
        if not line.strip():
            blanks += 1
            if blanks > 2 and not traced:
                break
        else:
            # Only a message that stopped short goes on after a blank line.
            short = traced or lines[-1].rstrip().endswith((":", "\\"))
            if blanks and not short and len(lines) > 1:
                break
            lines.append(line)
            end = at
            blanks = 0
    return _Raised(kind, tuple(lines), frames, start, end, message_at)


def _graph_error(text: str, at: int, stop: int) -> tuple[tuple[str, ...], int] | None:
    """What went wrong in a TensorFlow graph, its line first, and where that ends.

    "Graph execution error:" is followed by where the node was defined, tracebacks included, and
    after that by the message, which may have lines of advice around the one that says it. Then
    comes ``[[{{node …}}]]``.
    """
    node = text.find("[[{{node", at, stop)
    if node < 0:
        return None
    line = text.rfind("\n", at, node)
    if line < at:
        return None
    said: list[str] = []
    for each in reversed(text[at:line].split("\n")[-_BLOCK_LINES:]):
        if _FRAME.fullmatch(each) or _NODE_HEAD.match(each) or _GRAPH_ERROR in each:
            break
        if not each.strip() and said and not all(_says_nothing(one) for one in said):
            break  # what stands above is where the node was defined
        if each.strip():
            said.append(each.strip()[:_LINE_LIMIT])
    said.reverse()
    return _most_telling(said), _next_line(text, node, stop)


def _says_nothing(line: str) -> bool:
    return _ADVICE.match(line.strip()) is not None or not line.strip(" :")


def _most_telling(lines: Sequence[str]) -> tuple[str, ...]:
    """The same lines, the first that says something at the front."""
    first = next((n for n, line in enumerate(lines) if not _says_nothing(line)), 0)
    return tuple(lines[first:]) or tuple(lines)


def _chain(text: str, last: _Raised) -> tuple[_Raised, ...]:
    """The exceptions that led to the last, the root first."""
    chain = [last]
    start = last.start
    for _ in range(_CHAIN_LIMIT):
        before = text[max(0, start - 400) : start].rstrip()
        if not before.endswith(_SEPARATORS):
            break
        line = text.rfind("\n", 0, start - 1)
        cut = max(text.rfind(words, 0, start) for words in _SEPARATORS)
        at = text.rfind(_HEAD, 0, cut)
        if at < 0 or line < 0:
            break
        begin = text.rfind("\n", 0, at) + 1
        raised = _parse_block(text, begin, text[begin:at], cut)
        if raised is None:
            break
        chain.append(raised)
        start = begin
    chain.reverse()
    return tuple(chain)


def _parse_group(text: str, at: int) -> _Raised | None:
    """An exception group: the outermost that the text shows, and its first leaf.

    Source: traceback.TracebackException.format; sub-exceptions are set off by ``+-+---- 1 ----``
    and a margin of bars.
    """
    outer = text.rfind("\n  + " + _GROUP_HEAD)
    if outer < 0 and not text.startswith("  + " + _GROUP_HEAD):
        start = text.rfind("\n", 0, at) + 1
        return _parse_block(text, start, text[start:at])
    start = outer + 1
    end = start
    blocks: list[list[str]] = [[]]
    for index, line in enumerate(text[start:].split("\n", _BLOCK_LINES)[:_BLOCK_LINES]):
        margin = _MARGIN.match(line)
        if margin is None:
            break
        end += len(line) + 1
        content = line[margin.end() :]
        if _BOUNDARY.match(content) is not None:
            blocks.append([])
        elif index:
            blocks[-1].append(content)
    group = _parse_block("\n".join([_HEAD, *blocks[0]]), 0, "")
    if group is None:
        return None
    inner: list[_Raised] = []
    for block in blocks[1:]:
        if not block or block[0] == _GROUP_HEAD:
            continue
        lines = block if block[0] == _HEAD else [_HEAD, *block]
        leaf = _parse_block("\n".join(lines), 0, "")
        if leaf is not None and not (leaf.text and _GROUP_END.search(leaf.text[0])):
            inner.append(leaf)
            break
    return _Raised(
        group.kind, group.text[:1], group.frames, start, min(end, len(text)), inner=tuple(inner)
    )


def _parse_fatal(text: str, at: int) -> _Raised:
    """``Fatal Python error: Segmentation fault`` and faulthandler's stack, most recent first."""
    start = text.rfind("\n", 0, at) + 1
    frames: list[_Frame] = []
    end = position = _next_line(text, at, len(text))
    for _ in range(200):
        if position >= len(text):
            break
        line = _line_at(text, position)
        position = _next_line(text, position, len(text))
        found = _FATAL_FRAME.fullmatch(line)
        if found is not None:
            frames.append(_Frame(found[1], found[2], found[3], ()))
            end = position
        elif frames:
            break
    frames.reverse()
    said = _line_at(text, at + len(_FATAL))
    return _Raised("Fatal Python error", (said,), tuple(frames), start, end)


_FATAL_FRAME = re.compile(r'  File "([^"\n]*)", line (\d+) in (.*)')


def _find_syntax_error(text: str) -> _Raised | None:
    """A syntax error in the main script has no head line, only a place and the error."""
    kinds = ("\nSyntaxError: ", "\nIndentationError: ", "\nTabError: ")
    at = max(text.rfind(kind) for kind in kinds) + 1
    if at <= 0:
        return None
    place = text.rfind('  File "', max(0, at - 2000), at)
    if place < 0 or (place > 0 and text[place - 1] != "\n"):
        return None
    found = _FRAME.fullmatch(_line_at(text, place))
    if found is None:
        return None
    head = text.rfind(_HEAD, 0, place)
    if head >= 0 and "\n" + _HEAD not in text[_next_line(text, head, place) : place]:
        between = text[_next_line(text, head, place) : place]
        if not between or between.startswith("  File "):
            return None  # the end of an ordinary traceback
    body = text[_next_line(text, place, at) : at].split("\n")[:3]
    frame = _Frame(found[1], found[2], None, tuple(line for line in body if line))
    return _parse_exception(text, at, (place, len(text)), "", (frame,))


# ---------------------------------------------------------------------------- the detail


def _detail(source: str, chain: Sequence[_Raised], errors: str, output: str) -> str:
    parts: list[str] = []
    room = DETAIL_LIMIT
    if chain:
        root = chain[0]
        block = _format_raised(root)
        if root is not chain[-1]:
            last = chain[-1]
            block += f"\n… which led to {last.kind}: {_one_line(last.text)}".rstrip(": ")
        block = _shorten(block, DETAIL_LIMIT * 3 // 4)
        parts.append(block)
        room -= len(block) + 2
    after = chain[-1].end if chain else 0
    name, text = "stderr", errors
    if chain and source is output:
        name, text = "stdout", output
    elif not errors.strip():
        name, text, after = "stdout", output, 0
    if (lines := _last_lines(text, after, room - 40)) != "":
        parts.append(f"last lines of {name}:\n{lines}" if chain else lines)
    return "\n".join(parts)[:DETAIL_LIMIT]


def _format_raised(raised: _Raised) -> str:
    lines: list[str] = []
    if raised.frames:
        lines.append(_HEAD)
        lines += _format_frames(raised.frames)
    text = [part for part in raised.text if part.strip()]
    first = text[0] if text and raised.text[0].strip() else ""
    head = f"{raised.kind}: {first}" if raised.kind and first else raised.kind or first
    lines.append(head)
    lines += text[1 if first else 0 :][:10]
    for inner in raised.inner:
        lines.append("— first of the group:")
        lines.append(_format_raised(inner))
    return "\n".join(_clean(line, _LINE_LIMIT) for part in lines for line in part.split("\n"))


def _format_frames(frames: Sequence[_Frame]) -> list[str]:
    """The user's own frames; runs of others as one line; none of ours; the middle of many cut."""
    lines: list[list[str]] = []
    folded: list[_Frame] = []

    def fold() -> None:
        if folded:
            names = ", ".join(dict.fromkeys(f.library for f in folded))
            count = f"{len(folded)} frame" + ("s" if len(folded) > 1 else "")
            lines.append([f"  … {count} in {names}"])
            folded.clear()

    shown = [f for f in frames if not f.ours]
    if not any(f.users for f in shown):
        shown, plain = shown[-4:], True
    else:
        plain = False
    for frame in shown:
        if not (frame.users or plain):
            folded.append(frame)
            continue
        fold()
        where = f", in {frame.function}" if frame.function else ""
        body = [b for b in frame.body if set(b.strip()) - set("^~")]
        lines.append([f'  File "{frame.file}", line {frame.line}{where}', *body[:2]])
    fold()
    if len(lines) > _FIRST_FRAMES + _LAST_FRAMES + 1:
        left_out = len(lines) - _FIRST_FRAMES - _LAST_FRAMES
        lines[_FIRST_FRAMES:-_LAST_FRAMES] = [[f"  … {left_out} frames left out"]]
    return [line for group in lines for line in group]


# ---------------------------------------------------------------------------- lines and characters


def _decode(tail: bytes) -> str:
    """Text without escape sequences and controls; of lines with returns what a terminal shows."""
    data = tail[-_TAIL_LIMIT:]
    if b"\x1b" in data:
        data = _ESCAPES.sub(b"", data)
    data = data.replace(b"\r\n", b"\n").translate(None, _CONTROLS)
    text = data.decode("utf-8", "replace")
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return text


def _line_at(text: str, at: int, stop: int | None = None) -> str:
    """From ``at`` to the end of the line, cut to a bound."""
    limit = min(len(text) if stop is None else stop, at + _LINE_LIMIT)
    end = text.find("\n", at, limit)
    return text[at : end if end >= 0 else limit]


def _next_line(text: str, at: int, stop: int) -> int:
    end = text.find("\n", at, stop)
    return end + 1 if end >= 0 else stop


def _lines_from_end(text: str, begin: int, count: int) -> list[str]:
    """The last ``count`` lines after ``begin`` that are not blank, the last first."""
    lines: list[str] = []
    stop = len(text)
    for _ in range(4 * count):
        if stop <= begin or len(lines) >= count:
            break
        start = max(text.rfind("\n", begin, stop) + 1, begin)
        line = text[start : min(stop, start + _LINE_LIMIT)]
        if line.strip():
            lines.append(line)
        stop = start - 1
    return lines


def _last_lines(text: str, begin: int, room: int) -> str:
    kept: list[str] = []
    for line in _lines_from_end(text, begin, LAST_LINES):
        shown = _clean(line, _LINE_LIMIT)
        room -= len(shown) + 1
        if room < 0:
            break
        kept.append(shown)
    kept.reverse()
    return "\n".join(kept)


def _last_plain_line(text: str, begin: int) -> str:
    """The last line that is no log record and no interpreter's noise."""
    for line in _lines_from_end(text, begin, LAST_LINES):
        if not (line.startswith((" ", "\t")) or _LOG_LINE.match(line) or _NOISE.match(line)):
            return _clean(line, _LINE_LIMIT).strip()
    return ""


def _fatal_line(text: str) -> str:
    """The check of TensorFlow's C++ that failed; its stack trace follows it."""
    for line in reversed(text[-8192:].split("\n")):
        if (found := _CPP_LINE.match(line)) is not None and "F" in found.groups():
            return _clean(line[found.end() :], _LINE_LIMIT).strip()
    return ""


def _last_line(text: str) -> str:
    lines = _lines_from_end(text, 0, 1)
    return _clean(lines[0], _LINE_LIMIT).strip() if lines else ""


def _line_before(text: str, start: int) -> str:
    """The line that introduces what begins at ``start``."""
    lines = _lines_from_end(text[max(0, start - 2 * _LINE_LIMIT) : start], 0, 1)
    return lines[0] if lines else ""


def _was_logged(text: str, start: int) -> bool:
    """Whether the line before a traceback is the record of an error that was caught."""
    return _LOGGED_ERROR.search(_line_before(text, start)) is not None


def _one_line(lines: Sequence[str]) -> str:
    """The message in one line: the first, and more where that one stops short."""
    said = [line.strip() for line in lines if line.strip()]
    if not said:
        return ""
    if said[0].startswith(_GRAPH_ERROR) and len(said) > 1:
        return _told(said[1])
    if _says_nothing(said[0]):
        return _told(_most_telling(said)[0])
    if said[0] == _TRACED:  # a function that is traced: its own traceback is inside
        inner = [line for line in said if _INNER.match(line)]
        return _told(_INNER.sub("", (inner or said)[-1], count=1))
    text = _told(said[0])
    for line in said[1:3]:
        if lines[0].strip() and not text.endswith((":", ",", "(")):
            break
        text += " " + line
    return text


def _told(line: str) -> str:
    """Without the marks that TensorFlow's runtime puts around a message."""
    return _OP.sub("", _ROOT.sub("", _FUNCTION_NODE.sub("", line))).strip().lstrip(": ") or line


def _without_chatter(text: str) -> str:
    """Without what TensorFlow's C++ says in every run: at the level INFO, and what is known.

    What a script or Python itself writes is never taken for the rest of such a message, unless it
    looks like one.
    """
    if "] " not in text and "absl::InitializeLog" not in text:
        return text
    kept: list[str] = []
    within = False
    for line in text.split("\n"):
        if (found := _CPP_LINE.match(line)) is not None:
            within = (found[1] or found[2]) == "I" or _KNOWN_CHATTER.search(line) is not None
        elif _UNLEVELLED.match(line) is not None:
            within = True
        else:
            within = within and _CONTINUED.match(line) is not None
        if not within:
            kept.append(line)
    return "\n".join(kept)


def _clean(text: str, limit: int = DETAIL_LIMIT) -> str:
    """No characters that move a cursor, hide or reorder text; tabs as blanks."""
    text = text[:limit]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(0, limit - 1)].rstrip() + "…"
