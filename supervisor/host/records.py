"""What the report tells of one process, as it stands now; secrets are masked here."""

from __future__ import annotations

from supervisor.host.running import Running
from supervisor.life.state import Process
from supervisor.life.words import Life
from supervisor.streams.masking import Masker


def process_record(process: Process, running: Running, masker: Masker) -> dict[str, object]:
    """Times are seconds since the epoch, durations seconds."""
    end = running.end
    return {
        "name": process.name,
        "role": running.spec.role.value,
        "attempt": process.attempt,
        "starts": running.starts,
        "argv": masker.argv(running.spec.argv),
        "cwd": running.spec.cwd,
        "pid": running.child.pid if running.child else None,
        "started_at": running.started_at,
        "ended_at": running.ended_at,
        "seconds": end.run_s if end else None,
        "exit": str(process.status) if process.status else None,
        "exit_code": process.status.code if process.status else None,
        "signal": process.status.signum if process.status else None,
        "stopped_by_us": process.stopped_by_us,
        "cpu_s": end.cpu_s if end else None,
        "peak_rss_bytes": end.peak_rss_bytes if end else None,
        "output_bytes": running.output_bytes,
        "descendants_swept": end.swept if end else None,
        "left": left(process, running),
        "message": masker.text(process.message),
        "log": running.log_file or None,
    }


def left(process: Process, running: Running) -> list[int]:
    """The pids of a process's tree that could not be killed."""
    if running.end is not None:
        return list(running.end.left)
    return [running.child.pid] if running.child and process.life is Life.LEFT else []
