"""The batch script that ``supervisor launch slurm`` prints. Pure text.

What it does was tried on real clusters; the reasons stand in the script itself, for whoever has it
before them and not this file.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_WIDTH: Final = 78
EXIT_STOPPED: Final = 143
"""What a host of a stopped job exits with on Slurm (``SUPERVISOR_STOPPED_EXIT_CODE``)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One job of Slurm, checked: nothing in it can end a line of the script."""

    name: str
    nodes: int
    command: tuple[str, ...]
    """The script and its arguments."""
    strategy: str
    """Empty where it is the supervisor's choice."""
    time: str
    partition: str
    cpus: str
    gpus: str
    mem: str
    signal_s: int
    """How long before the time limit the job is told to stop, in seconds; 0 is not at all."""
    requeue: bool
    one_file: bool
    """All nodes' output in the file of the batch script, or each node's in one of its own."""
    options: tuple[str, ...]
    """Further ones of sbatch, each as it stands on a line."""
    environ: tuple[tuple[str, str], ...]
    venv: str
    before: tuple[str, ...]
    """Lines of shell that prepare the environment."""


def script_of(job: Batch) -> str:
    """The whole script; it ends in a line end."""
    return "\n".join((*_header(job), "", *_environment(job), *_body(job), ""))


def _header(job: Batch) -> Iterator[str]:
    yield "#!/bin/bash"
    yield f"#SBATCH --job-name={job.name}"
    yield f"#SBATCH --nodes={job.nodes}"
    yield "#SBATCH --ntasks-per-node=1"
    given = (
        ("time", job.time),
        ("partition", job.partition),
        ("cpus-per-task", job.cpus),
        ("gpus-per-node", job.gpus),
        ("mem", job.mem),
        ("signal", f"TERM@{job.signal_s}" if job.signal_s else ""),
    )
    yield from (f"#SBATCH --{option}={value}" for option, value in given if value)
    yield "#SBATCH --output=%x-%j.out"
    if job.requeue:
        yield "#SBATCH --requeue"
        yield "#SBATCH --open-mode=append"
    yield from (f"#SBATCH {option}" for option in job.options)
    yield ""
    again = " and has it queued again" if job.requeue else ""
    yield from _said(
        "One task a node: its supervisor, which starts what runs there. Submit with sbatch. "
        "To stop it: scancel JOBID, which leaves the cluster's KillWait to save, or scancel -s "
        f"TERM JOBID.0, which leaves all the time there is{again}. Never kill -TERM an srun, nor "
        "scancel --batch or --full: every task is killed at once."
    )


def _environment(job: Batch) -> Iterator[str]:
    lines = [*job.before]
    if job.venv:
        lines.append(f"source {shlex.quote(job.venv.rstrip('/') + '/bin/activate')}")
    lines += [f"export {name}={shlex.quote(value)}" for name, value in job.environ]
    if lines:
        yield from ("set -e", *lines, "set +e", "")
    if job.signal_s:
        yield from _said(
            f"Slurm says TERM {job.signal_s} s before the time limit (--signal), so the script has "
            "that long to save. scancel JOBID leaves KillWait, whatever stands here."
        )
        yield from (f"export SUPERVISOR_STOP_LIMIT_S={job.signal_s}", "")


def _body(job: Batch) -> Iterator[str]:
    yield from _said(
        "The supervisors end the job themselves, the chief last and saved: Slurm is not to kill "
        "the others when the first one exits."
    )
    if not job.one_file:
        yield from _said("Each node writes a file of its own, NAME-JOBID-NODE.out.")
    if not job.requeue:
        yield from _said(
            "exec: where Slurm contains jobs in cgroups, a shell in between dies of scancel, and "
            "the last lines are lost with it."
        )
        yield from _srun(job, "exec srun")
        return
    yield ""
    yield from _said(
        "scancel and the time limit itself tell this shell too: it notes that, and waits for srun. "
        "Without a trap it dies, and the last lines are lost with it."
    )
    yield from ("ended=", "trap 'ended=yes' TERM", "")
    yield from _srun(job, "srun")
    yield from ("code=$?", "")
    yield from _said(
        f"{EXIT_STOPPED} is a job that was told to stop, by preemption or by --signal, and has "
        "saved. Slurm takes it for one that failed, and does not queue it again by itself. After "
        "scancel this would call it back to life: then the shell was told, and leaves it."
    )
    yield f'if [ "$code" -eq {EXIT_STOPPED} ] && [ -z "$ended" ]; then'
    yield '    scontrol requeue "$SLURM_JOB_ID"'
    yield "fi"
    yield 'exit "$code"'


def _srun(job: Batch, start: str) -> Iterator[str]:
    options = ["--kill-on-bad-exit=0", "--wait=0"]
    if job.cpus:
        options.append(f"--cpus-per-task={job.cpus}")  # from 22.05 on not taken from sbatch's
    if not job.one_file:
        options.append("--output=%x-%j-%N.out")
        if job.requeue:
            options.append("--open-mode=append")
    strategy = ("--strategy", job.strategy) if job.strategy else ()
    yield f"{start} {' '.join(options)} \\"
    yield f"    {shlex.join(('supervisor', 'train', *strategy, '--'))} \\"
    yield f"    {shlex.join(job.command)}"


def _said(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")
