"""What the end of mpirun's output says about the rank that failed first. Pure, and bounded.

Output is tagged ``[1,RANK]<stderr>:`` line by line; what stands without a tag is mpirun's own.
Texts are those of Open MPI 4.1, and the line of ``mpi/rank.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_TAG: Final = re.compile(rb"\[[^\],\n]{1,80},(\d{1,9})\]<std\w{1,4}>:", re.ASCII)
_OURS: Final = re.compile(rb"supervisor: rank (\d+) on (\S+): ")
_FIRST: Final = (
    re.compile(rb"The first process to do so was:\s+Process name: \[\[\d+,\d+\],(\d+)\]"),
    re.compile(rb"process rank (\d+) with PID \d+ on node \S+ exited on signal"),
    re.compile(rb"MPI_ABORT was invoked on rank (\d+)"),
)
_LOST_DAEMON: Final = re.compile(rb"Remote daemon:\s+\[\[[^\]\n]*\],\d+\] on node (\S+)")


@dataclass(frozen=True, slots=True)
class Words:
    """Whose words they are (``rank 1 on algo-2``, or nothing) and the words, without tags."""

    who: str
    stdout: bytes
    stderr: bytes


def read(stdout: bytes, stderr: bytes) -> Words:
    """The last words of the rank that failed first; of all, where that is not known."""
    rank = _failed_rank(stderr)
    if rank is None:
        lost = _LOST_DAEMON.search(stderr)
        who = f"Open MPI lost {lost[1].decode(errors='replace')}" if lost else ""
        return Words(who, _untagged(stdout, None), _untagged(stderr, None))
    hosts = {int(found[1]): found[2] for found in _OURS.finditer(stderr)}
    host = hosts.get(rank, b"").decode(errors="replace")
    who = f"rank {rank} on {host}" if host else f"rank {rank}"
    return Words(who, _untagged(stdout, rank), _untagged(stderr, rank))


def _failed_rank(stderr: bytes) -> int | None:
    """Mpirun knows who came first; where it does not say, the first that we heard of."""
    for pattern in (*_FIRST, _OURS):
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
