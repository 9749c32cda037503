"""What the supervisor says, in words: one sentence for each event of its own. Pure.

The name of an event and its fields are for programs (``SUPERVISOR_LOG_FORMAT=json``, ``/events``,
``report.json``), and stable. People read these sentences, which are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from supervisor.faults import counted

Fields = Mapping[str, object]
"""Masked and bounded already."""

_ARGV: Final = 120
"""Characters of a command line that are shown; sshd's alone would take a dozen lines."""
SCOPES: Final[Mapping[str, str]] = {
    "alone": "the process alone",
    "chief": "the chief and the parameter servers",
    "all": "all scripts",
}
"""What starts anew with an attempt, by the word of its scope."""
_PARTS: Final[Mapping[str, str]] = {
    "fetch_s": "fetch",
    "join_s": "join",
    "down_s": "down",
    "import_s": "import",
    "first_step_s": "first step",
}
"""Of the way to the first step."""
_LEAST_S: Final = 0.05
_WHOLE_S: Final = 10
"""From here on tenths are no matter."""
_SAYS_HOW: Final = "; exit "
"""Where a cause goes on to say how the process ended, which another line has said."""


def sentence(event: str, fields: Fields) -> str:
    """What happened, in words; may have what a terminal would obey, as the fields do.

    An event without a sentence of its own is told by its fields.
    """
    spoken = _SENTENCES.get(event)
    try:
        if callable(spoken):
            return spoken(fields)
        if spoken is not None:
            return spoken.format_map(fields)
    except (KeyError, TypeError, ValueError):
        pass  # a field is missing: what is there is said all the same
    return ", ".join(f"{key} {_listed(value)}" for key, value in fields.items())


def brief(event: str, fields: Fields, host: str) -> str:
    """The same for the terminal of `supervisor local`, where all hosts' lines stand below each
    other: what ended the job is told once, by the host that it happened on, and what matters to
    nobody who looks on is empty."""
    if event in _UNSAID_IN_BRIEF:
        return ""
    if event == "job.ending":
        return _ending_in_brief(fields, host)
    if event in _ATTEMPTS_IN_BRIEF:
        return _ATTEMPTS_IN_BRIEF[event](fields)
    if event == "training.began" and float(str(fields.get("seconds", 0))) < _WHOLE_S:
        return ""
    if event == "process.exited":
        return sentence(event, {key: value for key, value in fields.items() if key != "message"})
    if event == "process.started":
        return "{process} runs, pid {pid}".format_map(fields) + (
            f", warm for {fields['warm_s']} s" if "warm_s" in fields else ""
        )
    return sentence(event, fields)


def _ending_in_brief(fields: Fields, host: str) -> str:
    outcome, cause = fields.get("outcome"), str(fields.get("cause", ""))
    if outcome == "succeeded" or cause == f"{host}: received SIGINT":
        return ""  # its scripts have ended, or somebody has pressed Ctrl-C: that is told already
    who = cause.partition(": ")[0]
    if who.split(" ")[0] != host:
        return f"stopping: {who} {'failed' if outcome == 'failed' else 'was asked to stop'}"
    # The line about its process says how that ended.
    return cause.removeprefix(f"{host} ").partition(_SAYS_HOW)[0]


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _started(fields: Fields) -> str:
    argv = str(fields["argv"])
    shown = argv if len(argv) <= _ARGV else argv[: _ARGV - 1] + "…"
    warm = f", warm for {fields['warm_s']} s" if "warm_s" in fields else ""
    return f"{fields['process']} runs, pid {fields['pid']}{warm}: {shown}"


def _exited(fields: Fields) -> str:
    end, message = str(fields["exit"]), str(fields.get("message") or "")
    seconds = fields["seconds"]
    took = f"{seconds:.1f}" if isinstance(seconds, float) else seconds
    if not message.startswith(end):  # else it says how long as well
        message = f"{end} after {took} s" + (f": {message}" if message else "")
    return f"{fields['process']}, pid {fields['pid']}: {message}"


def _signalled(fields: Fields) -> str:
    to = " and its process group" if fields["to"] == "group" else ""
    if fields["to"] == "everybody":
        to = ": sent to every process, it has had it already"
    return "{signal} to {process}, pid {pid}".format_map(fields) + to


def _outlived(fields: Fields) -> str:
    count = fields["count"]
    others = "a process of its own is" if count == 1 else f"{count} processes of its own are"
    return (
        "{process} has ended ({exit}), and ".format_map(fields)
        + others
        + " not: {who}; {signal} was sent, SIGKILL follows in {left_s} s".format_map(fields)
    )


def _received(fields: Fields) -> str:
    again = "" if fields["count"] == 1 else f", number {fields['count']}"
    return f"{fields['signal']}{again}; {fields['left_s']} s are left to stop"


_HAS: Final = {"succeeded": "has succeeded", "failed": "has failed", "stopped": "was stopped"}


def _ending(fields: Fields) -> str:
    return f"the job {_HAS[str(fields['outcome'])]}: {fields['cause']}"


def _ended(fields: Fields) -> str:
    return f"{_ending(fields)}; exit code {fields['exit_code']}"


def _joined(fields: Fields) -> str:
    missing = fields["missing"]
    rest = f"{missing} missing" if missing else "all hosts are here"
    return f"{fields['host']} has joined, {rest}"


def _differ(fields: Fields) -> str:
    text = f"the hosts would begin from different checkpoints: {fields['hosts']}"
    restore = fields["restore"]
    return text if restore == "none" else f"{text}; all restore {restore}"


def _tolerated(fields: Fields) -> str:
    who = f"{fields['host']} {fields['process']}" if fields["process"] else fields["host"]
    return f"the job goes on without {who}: {fields['message']} (at most {fields['limit']})"


def _fetched(fields: Fields) -> str:
    words = []
    if fields.get("files"):
        words.append(_files(fields))
    if fields.get("resumed_from"):
        words.append(f"from the checkpoint {fields['resumed_from']}")
    if fields.get("bucket_region"):
        words.append(f"the bucket's region is {fields['bucket_region']}")
    return "fetched" + (": " if words else "") + "; ".join(words)


def _saved(fields: Fields) -> str:
    return f"{fields['transfer']}: {_files(fields)}, kept as {fields['manifest']}"


def _lags(fields: Fields) -> str:
    files = counted(_number(fields["pending_files"]), "file")
    why = f": {fields['error']}" if fields.get("error") else ""
    return f"{fields['transfer']}: {files} to be sent, for {fields['lag_s']} s already{why}"


def _stalled(fields: Fields) -> str:
    then = "left out" if fields["overflow"] == "drop" else "held, and its writer with it"
    return (
        f"{fields['output']} has taken nothing for {fields['seconds']} s; what comes now is {then}"
    )


def _lost(fields: Fields) -> str:
    amounts = ", ".join(
        f"{value} {key.replace('_', ' ')}" for key, value in fields.items() if key != "output"
    )
    return f"{fields['output']}: {amounts}"


def _processes(fields: Fields) -> str:
    count = _number(fields["processes"])
    return f"{count} process" if count == 1 else f"{count} processes"


def _files(fields: Fields) -> str:
    return f"{counted(_number(fields['files']), 'file')}, {_number(fields['bytes']):,} bytes"


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0


def _chosen(fields: Fields) -> str:
    restarts = _number(fields.get("restarts"))
    again = f"; started anew {counted(restarts, 'time')} by the platform" if restarts else ""
    return f"the job comes from {fields['engine']}: {fields['evidence']}{again}"


def _began(fields: Fields) -> str:
    return f"{first_step(fields)}; {fields['unit']} {fields['step']}, {fields['source']}"


def first_step(fields: Fields) -> str:
    """``first step after 71 s: fetch 31 (algo-3), join 0.4, import 6, first step 33``, as far as it
    is known. What took no tenth of a second is left out."""
    parts = []
    for key, word in _PARTS.items():
        seconds = fields.get(key)
        if isinstance(seconds, int | float) and seconds >= _LEAST_S:
            host = fields.get("fetch_host") if key == "fetch_s" else ""
            parts.append(f"{word} {_brief(seconds)}" + (f" ({host})" if host else ""))
    made_of = f": {', '.join(parts)}" if len(parts) > 1 else ""
    return f"first step after {_brief(float(str(fields['seconds'])))} s{made_of}"


def _brief(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= _WHOLE_S else f"{seconds:.1f}"


def starts_anew(scope: str) -> str:
    """``all scripts start anew``."""
    return f"{SCOPES.get(scope, scope)} {'starts' if scope == 'alone' else 'start'} anew"


def _restarted(fields: Fields) -> str:
    origin = f", from {fields['from']}" if fields.get("from") else ""
    after, kind = fields["cause"], fields["kind"]
    seconds = _seconds(fields["seconds"])
    return (
        f"attempt {fields['attempt']}: {starts_anew(str(fields['scope']))} after {after} ({kind}); "
        f"{seconds} s{origin}"
    )


def _restarted_in_brief(fields: Fields) -> str:
    """Without what the line about its process, or the headline of a failure, says."""
    known = {"attempt": "?", "scope": "", "kind": "", "cause": "", "seconds": 0.0} | dict(fields)
    known["cause"] = str(known["cause"]).partition(_SAYS_HOW)[0]
    if known.get("from"):
        known["from"] = str(known["from"]).rstrip("/").rpartition("/")[2]
    return _restarted(known)


def _seconds(value: object) -> object:
    return f"{value:.2f}" if isinstance(value, float) else value


def _waiting(fields: Fields) -> str:
    after_s = fields["after_s"]
    pause = f"{after_s:g}" if isinstance(after_s, float) else after_s
    return f"attempt {fields['attempt']} begins in {pause} s, after {fields['cause']}"


def _waiting_in_brief(fields: Fields) -> str:
    return sentence("attempt.waiting", fields).partition(_SAYS_HOW)[0]


def _changed(fields: Fields) -> str:
    """``2 of 3 hosts train: without algo-3``."""
    came, left = (_listed(fields[name]) for name in ("came", "left"))
    how = ", ".join(filter(None, (came and f"with {came}", left and f"without {left}")))
    return f"{fields['hosts']} of {counted(_number(fields['of']), 'host')} train: {how}"


def _warm_ended(fields: Fields) -> str:
    again = fields["again_in_s"]
    then = "there is none any more" if again is None else f"another one in {again} s"
    return f"the warm interpreter ended ({fields['exit']}), {then}"


def _refused_in_brief(fields: Fields) -> str:
    """The cause is told next: it ends the job, or is tolerated."""
    return f"not restarted: {fields.get('reason', '')}"


_SENTENCES: Final[Mapping[str, str | Callable[[Fields], str]]] = {
    "attempt.refused": "not restarted: {reason} ({cause})",
    "attempt.restarted": _restarted,
    "attempt.waiting": _waiting,
    "checkpoint.saved": _saved,
    "checkpoint.shared": "{transfer}: {manifest}: {why}",
    "checkpoints.differ": _differ,
    "engine.chosen": _chosen,
    "failure.also": "beside it: {cause}",
    "failure.examined": "{cause}; for {seconds} s another one is looked for that explains it",
    "failure.tolerated": _tolerated,
    "files.silent": "{text}",
    "hosts.changed": _changed,
    "hold.expired": "the master's word has not come in time, and is not waited for any more",
    "installation.shared": "{text}",
    "internal.error": "a defect of the supervisor: {error}",
    "job.ended": _ended,
    "job.ending": _ending,
    "job.resumed": "resumed from {from}",
    "joining.extended": "{hosts}: still preparing, and waited for longer",
    "joining.waiting": "waiting for {hosts}",
    "job.taken_over": "the job runs on {hosts}, at attempt {attempt}: this master goes on with it",
    "master.away": "the master {host} {how}: {evidence}; waited for {seconds:g} s",
    "master.back": "the master {host} is back",
    "master.lost": "the master {host} {how}: {evidence}",
    "member.away": "{host} is waited for {seconds:g} s, until it comes back",
    "member.joined": _joined,
    "member.lost": "{host} is lost: {evidence}",
    "member.refused": "{host} is refused: {reason}",
    "member.returned": "{host} is back",
    "member.stands_by": "{host} stands by, and takes part when all start anew",
    "members.late": lambda fields: f"not waited for any more: {_listed(fields['hosts'])}",
    "model.unservable": "{text}",
    "notices.refused": "a notification of pid {pid} is not heeded: {why}",
    "notices.unavailable": "there is no NOTIFY_SOCKET for scripts: {error}",
    "output.broken": "{output} cannot be written to any more: {error}",
    "output.lost": _lost,
    "output.resumed": "{output} goes on",
    "output.stalled": _stalled,
    "phase.entered": "{phase}",
    "plan.note": "{text}",
    "process.descendants_killed": "{process} left processes behind, {signal} ended them: {who}",
    "process.exited": _exited,
    "process.extended": "{process} asks for {asked_s} s, and has {left_s} s from now",
    "process.hung": "{process} has shown no sign of life for {idle_s} s",
    "process.interpreted": "{text}",
    "process.kill": "SIGKILL to {process}, pid {pid}, and all below it",
    "process.left": "{process} cannot be killed, and is left",
    "process.outlived": _outlived,
    "process.resumed": lambda fields: f"{fields['process']} goes on, {_processes(fields)}",
    "process.seen": "{process} stands here: {stacks}",
    "process.signalled": _signalled,
    "process.stacks": lambda fields: f"{fields['process']}: stacks of {_processes(fields)}",
    "process.started": _started,
    "process.suspended": lambda fields: f"{fields['process']} is held, {_processes(fields)}",
    "record.failed": "{error}",
    "restore.failed": "not restored: {error}; once more in {again_in_s:g} s",
    "resource.low": "{text}",
    "script.ready": "{process} is ready, after {seconds} s",
    "script.status": "{process}: {text}",
    "servers.unused": "{text}",
    "servers.used": "the servers are in use",
    "settings.of_others": "not ours, and ignored: {ignored}",
    "signal.received": _received,
    "status.error": "status port: {error}",
    "status.unavailable": "there is no status port: {error}",
    "storage.ended": "the process for transfers ended ({how}); another one in {again_in_s} s",
    "storage.failed": "{text}",
    "storage.fetched": _fetched,
    "storage.started": "the process for transfers runs, pid {pid}",
    "storage.unintelligible": "the process for transfers said what is no message: {line}",
    "storage.unsent": "{text}",
    "training.began": _began,
    "training.ended": "{text}",
    "training.diverged": "the loss is {loss} at {unit} {step} ({source})",
    "training.not_resumed": (
        "began at {unit} {step} ({source}), though a checkpoint of {unit} {saved} lies in {path}"
    ),
    "training.unkept": "the ledger: {error}",
    "training.save_interval": (
        "a save takes {save_s} s, and it saves every {every_s} s; with a failure as often as so "
        "far ({failures}), every {best_s} s would lose the least time"
    ),
    "training.save_too_long": (
        "saving took {save_s} s, and a stop leaves {grace_s} s: what it saves then is lost; see "
        "SUPERVISOR_STOP_LIMIT_S"
    ),
    "transfer.caught_up": "{transfer}: everything is sent",
    # A path stands as path=NAME: it may be any text, and people search logs for it.
    "transfer.dangling": "{transfer}: path={path}: {why}",
    "transfer.failing": "{transfer}: {error}; try {tries}, again in {again_in_s} s",
    "transfer.lags": _lags,
    "transfer.left_out": "{transfer}: path={path} is left out: {why}",
    "transfer.no_events": "{directory}: looked through every {rescan_s} s: {why}",
    "transfer.not_cleared": "{transfer}: path={path} could not be cleared: {why}",
    "transfer.recovered": "{transfer}: sending works again",
    "warm.ended": _warm_ended,
    "warm.ready": "a warm interpreter waits, pid {pid}, after {seconds} s, with {memory}",
    "warm.unused": "no warm start: {reason}",
}
"""A template over the fields, or what makes the sentence of them."""

_UNSAID_IN_BRIEF: Final = frozenset(
    {"job.ended", "process.signalled", "signal.received", "training.ended"}
)
"""`supervisor local` says these itself, once for all hosts."""

_ATTEMPTS_IN_BRIEF: Final[Mapping[str, Callable[[Fields], str]]] = {
    "attempt.refused": _refused_in_brief,
    "attempt.restarted": _restarted_in_brief,
    "attempt.waiting": _waiting_in_brief,
}
