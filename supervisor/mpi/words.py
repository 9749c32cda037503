"""What the end of mpirun's output says about the rank that failed first. Pure, and bounded.

Output is tagged ``[1,RANK]<stderr>:`` line by line; what stands without a tag is mpirun's own.
Texts are those of Open MPI 4.1 and 5.0, and the line of ``mpi/rank.py``.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import Final

_TAG: Final = re.compile(rb"\[[^\],\n]{1,80},(\d{1,9})\]<std\w{1,4}>:", re.ASCII)
_OURS: Final = re.compile(rb" ?supervisor: rank (\d+) on (\S+): (?:killed by (SIG\w+)\n)?")
_FIRST: Final = (
    re.compile(rb"The first process to do so was:\s+Process name: \[[^\n]{1,200},(\d+)\]"),
    re.compile(rb"process rank (\d+) with PID \d+ on node \S+ exited on signal"),
    re.compile(rb"MPI_ABORT was invoked on rank (\d+)"),
)
_LOST_DAEMON: Final = re.compile(rb"Remote daemon:\s+\[\[[^\]\n]*\],\d+\] on node (\S+)")

_BANNER: Final = re.compile(rb"^-{60,80}\n(.*?)^-{60,80}$", re.MULTILINE | re.DOTALL)
"""mpirun's own messages stand between two lines of dashes; the first paragraph says it."""


@dataclass(frozen=True, slots=True)
class Words:
    """Whose words they are (``rank 1 on algo-2``, or nothing) and the words, without tags."""

    who: str
    stdout: bytes
    stderr: bytes
    signum: int | None = None
    """The signal that it died of; mpirun itself then exits with 128 + N."""


def read(stdout: bytes, stderr: bytes, code: int | None = None) -> Words:
    """The last words of the rank that failed first; of all, where that is not known.

    ``code`` is mpirun's own exit code, which is that of the rank that failed first.
    """
    rank = _failed_rank(stderr, code)
    ours = {int(found[1]): found for found in _OURS.finditer(stderr)}
    if rank is None:
        lost = _LOST_DAEMON.search(stderr)
        who = f"Open MPI lost {lost[1].decode(errors='replace')}" if lost else ""
        text = _untagged(stderr, None)
        if banners := _BANNER.findall(text):  # the last line is what a failure is called by
            who = who or "mpirun"
            paragraph = banners[-1].strip().partition(b"\n\n")[0]
            text += b"\n" + b" ".join(paragraph.split()) + b"\n"
        return Words(who, _untagged(stdout, None), text)
    who, signum = f"rank {rank}", None
    if rank in ours:
        who += f" on {ours[rank][2].decode(errors='replace')}"
        if (name := (ours[rank][3] or b"").decode()) in signal.Signals.__members__:
            signum = int(signal.Signals[name])
    return Words(who, _untagged(stdout, rank), _untagged(stderr, rank), signum)


def _failed_rank(stderr: bytes, code: int | None) -> int | None:
    """Who came first, as mpirun knows. Where it does not say, its exit code tells a failure from
    what that did to the others; else it is the first that we heard of."""
    same_code = re.compile(rb"supervisor: rank (\d+) on \S+: exit %d\n" % (code or 0))
    for pattern in (*_FIRST, same_code, _OURS):
        if found := pattern.search(stderr):
            return int(found[1])
    return None


def _untagged(output: bytes, rank: int | None) -> bytes:
    """The lines of one rank, or of all and of mpirun; our own line about its end is left out."""
    lines = []
    for line in output.splitlines(keepends=True):
        tag = _TAG.match(line)
        whose = int(tag[1]) if tag else None
        text = line[tag.end() :] if tag else line
        if (rank is None or whose == rank) and not _OURS.match(text):
            lines.append(text)
    return b"".join(lines)
