"""The life of one host as a reducer: ``step(state, event) -> (state, actions)``.

Pure: no time, no I/O, no processes. A deadline arrives as an event; a wish to signal a process
leaves as an action. ``step`` is two moves: ``_react`` says what the event means, and ``_settle``
draws every conclusion that no longer needs an event (all scripts are gone, so stop the servers; all
processes are gone, so publish; …). The two together are the whole life cycle:

    preparing → joining → running → draining → killing → publishing → done
                             ⇅
                         restarting

Preparing may have steps, processes such as an installation: one after the other, each to its end.
A step is stopped like a script and counts as none. Joining may have one too: hosts that hold other
checkpoints than the rest restore theirs (``agreement.py``) before anything runs.

Each change of a phase is a row of ``automaton.PHASES``; how a host comes down, from the first
signal to SIGKILL, is ``ladder.LADDER``. A job that may go on after a failure has attempts
(``restarting.py``): what failed, and what cannot go on without it, comes down and starts anew.

What always holds (tested as properties): the cause never changes; attempts only grow; nothing is
started once draining; every phase after running has an armed deadline; done if and only if nothing
is alive and publishing is settled; a second stop signal kills, unless it is the echo of the first.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Final, assert_never

from supervisor.life import events as ev
from supervisor.life.automaton import Trigger
from supervisor.life.ending import end, failed_for_good, finished, note, resume, success, verdict_of
from supervisor.life.joining import (
    agree,
    prepared,
    restore_as_all,
    run,
    waiting,
    who_is_missing,
)
from supervisor.life.ladder import evaluates_on, kill, more_time, rung_done, rung_over
from supervisor.life.outcome import job_exit_code
from supervisor.life.state import (
    Member,
    Process,
    State,
    advance,
    arm,
    disarm,
    enter,
    hear,
    live,
    own_cause,
    process_of,
    with_process,
)
from supervisor.life.words import (
    STOP_SIGNALS,
    Cause,
    CauseKind,
    ExitStatus,
    JobState,
    Outcome,
    Phase,
    Rung,
    SuccessPolicy,
    Verdict,
    signal_name,
)

if TYPE_CHECKING:  # for jobs that go on after a failure
    from supervisor.life.attempts import Order

WORD_S: Final = 1.0
"""A member that was told to stop waits so long for the master's word on how the job ended."""
LATE_S: Final = 2.0
"""A job that fails before all hosts have come is still served so long. Hosts of a job start at
about the same time, and one that comes too late waits for its whole join timeout."""
_SHOWN: Final = 10
"""Missing hosts that are named in a message."""
_NO_SIGN: Final = "no output, no CPU time and no heartbeat"


def step(state: State, event: ev.Event) -> tuple[State, tuple[ev.Action, ...]]:
    """The next state, and what to do, in order."""
    if state.phase is Phase.DONE:
        return state, ()
    actions: list[ev.Action] = []
    reacted = _settle(_react(state, event, actions), actions)
    if reacted.setup.is_member and _told(reacted) != _told(state):
        actions.append(ev.Report(*_told(reacted)))
    return reacted, tuple(actions)


def _told(state: State) -> tuple[Phase, bool, Cause | None, str, int, int, bool, int]:
    """What a member tells the master: whenever it changes, and nothing else."""
    causes = (state.cause, state.suspect, state.asked, *state.tolerated)
    own = (each for each in causes if each is not None and each.host == state.setup.host)
    return (
        state.phase,
        state.script_finished,
        next(own, None),
        state.holds,
        state.turn,
        state.attempt,
        state.moved,
        state.order.turn if state.order else 0,
    )


# --------------------------------------------------------------------------- what an event means


def _react(state: State, event: ev.Event, actions: list[ev.Action]) -> State:
    match event:
        case ev.Prepared():
            return prepared(state, actions)
        case ev.PrepareFailed(message, at):
            return end(state, own_cause(state, CauseKind.PREPARE_FAILED, message, at), actions)
        case ev.Replanned(names, holds):
            state = replace(state, holds=state.holds if holds is None else holds)
            known = {process.name for process in state.processes}
            more = [Process(name, server=False, step=True) for name in names if name not in known]
            state = replace(state, processes=(*state.processes, *more))
            if state.phase is Phase.RESTARTING and holds is None:
                from supervisor.life.restarting import restore  # noqa: PLC0415

                return restore(state, names, actions)
            return state
        case ev.TransferFailed(message, at, fenced):
            kind = CauseKind.FENCED if fenced else CauseKind.TRANSFER_FAILED
            return end(state, own_cause(state, kind, message, at), actions)
        case ev.Started():
            return state  # alive since its start was ordered
        case ev.StartFailed(process, code, message, at):
            status = ExitStatus(code=code)
            state = live(state, process, Trigger.ENDED, status=status, ended_at=at, message=message)
            step_failed = process_of(state, process).step
            kind = CauseKind.PREPARE_FAILED if step_failed else CauseKind.START_FAILED
            cause = own_cause(state, kind, message, at, process, status)
            return _failed(state, cause, actions)
        case ev.Exited():
            return _exited(state, event, actions)
        case ev.Signalled():
            return _signalled(state, event, actions)
        case ev.Hung(process, idle_s, at, detail, lacking, progressed):
            if not state.under_way or process_of(state, process).again:
                return state
            message = f"hung: {lacking or _NO_SIGN} for {idle_s:.0f} s"
            cause = own_cause(state, CauseKind.HANG, message, at, process, detail=detail)
            if not state.restarts:
                return end(state, cause, actions)
            return _failed(replace(state, moved=state.moved or progressed), cause, actions)
        case ev.Diverged(process, message, at):
            if not state.under_way or process_of(state, process).again:
                return state
            return end(state, own_cause(state, CauseKind.DIVERGED, message, at, process), actions)
        case ev.MoreTime(process, seconds):
            return more_time(state, process, seconds, actions)
        case ev.Readied(turn, generation):
            from supervisor.life.restarting import readied  # noqa: PLC0415

            return readied(state, turn, generation, actions)
        case ev.NotReady(turn, reason):
            from supervisor.life.restarting import not_ready  # noqa: PLC0415

            return not_ready(state, turn, reason, actions)
        case ev.Expired(deadline, at):
            if deadline not in state.armed:
                return state  # disarmed while its expiry waited among the events
            state = replace(state, armed=state.armed - {deadline})
            return _expired(state, deadline, at, actions)
        case ev.MemberReported():
            return _member_reported(state, event, actions)
        case ev.MemberLost(host, evidence, at, progressed):
            state = replace(state, moved=state.moved or progressed)
            return _member_lost(state, host, evidence, at, actions)
        case ev.JobChanged(job, verdict, _, generation, order, restarts):
            if restarts and not state.restarts and state.setup.is_member:
                state = replace(state, restarts=True)
            state = _heard_from_master(state, actions)
            if state.late is None:
                runs = job in {JobState.RUNNING, JobState.RESTARTING}
                state = replace(state, late=restarts and runs)
            if generation and job is JobState.JOINING:
                return restore_as_all(replace(state, master_heard=True), generation, actions)
            return _job_changed(state, job, verdict, actions, order, generation)
        case ev.Waiting(reasons):
            return waiting(state, reasons, actions)
        case ev.MasterSeen(bare):
            # A master without our status server says nothing about the barrier: its open port has
            # to do, as it did in the predecessor.
            if bare:
                return _job_changed(state, JobState.RUNNING, None, actions)
            return _heard_from_master(state, actions)
        case ev.MasterLost():
            return _master_lost(state, event, actions)
        case ev.MasterEnded(evidence, at):
            message = f"the master's port is closed ({evidence}); it ended, its verdict is unknown"
            cause = Cause(CauseKind.MASTER_ENDED, state.setup.master, message, at=at)
            return _job_changed(
                state, JobState.ENDED, Verdict(Outcome.SUCCEEDED, cause, 0), actions
            )
        case ev.Published(error, fenced):
            state = replace(state, fenced=fenced)
            return _publishing_over(disarm(state, actions, ev.Deadline.PUBLISH), error)
        case ev.Broke(message, at):
            return _broke(state, message, at, actions)
    assert_never(event)


def _exited(state: State, event: ev.Exited, actions: list[ev.Action]) -> State:
    process = process_of(state, event.process)
    state = live(
        state,
        event.process,
        Trigger.SURVIVED if event.left else Trigger.ENDED,
        status=event.status,
        ended_at=event.at,
        message=event.message,
    )
    if process.step and event.status.ok:
        state = replace(state, restored=state.restoring)
        return prepared(state, actions)
    counts = state.nothing_started or state.under_way if process.step else state.under_way
    if not counts or process.again:
        return state
    state = replace(state, moved=state.moved or event.progressed)
    if process.step:
        if state.phase is Phase.RESTARTING and not event.left:
            from supervisor.life.restarting import restore_again  # noqa: PLC0415

            if (again := restore_again(state, event, actions)) is not None:
                return again
        kind = CauseKind.PREPARE_FAILED
    elif process.server:
        kind = CauseKind.ESSENTIAL_DIED
    elif not event.status.ok:
        kind = CauseKind.SCRIPT_FAILED
    else:
        # Success is a conclusion, drawn in _settle.
        waits = state.setup.success_policy is not SuccessPolicy.CHIEF and state.members
        if waits and state.setup.budgets.straggler_s and state.phase is Phase.RUNNING:
            return arm(state, ev.Deadline.STRAGGLER, state.setup.budgets.straggler_s, actions)
        return state
    message = event.message or str(event.status)
    cause = own_cause(
        state, kind, message, event.at, event.process, event.status, event.detail, event.error
    )
    return _failed(state, cause, actions)


def _failed(state: State, cause: Cause, actions: list[ev.Action]) -> State:
    """A failure here, or on the master anywhere."""
    if not state.before_draining:
        return note(state, cause, actions)
    if state.restarts and state.under_way:
        from supervisor.life import restarting  # noqa: PLC0415  # for jobs that go on

        if cause.kind in restarting.RESTARTED:
            return restarting.failed(state, cause, actions)
    return failed_for_good(state, cause, actions)


def passes_on(state: State, signum: int) -> bool:
    """Whether a process may get this signal from us because we have had it, now or on the way
    down. Then it matters whether it has had it already."""
    if signum in {signal.SIGTSTP, signal.SIGCONT} or not state.scripts_alive:
        return False
    return signum not in STOP_SIGNALS or state.stop_signals == 0


def is_anothers_stop(state: State, event: ev.Event) -> bool:
    """Whether another host's word that the job is to stop would end it here. Whoever told that host
    may be about to tell this one."""
    cause = None
    if isinstance(event, ev.MemberReported):
        cause = event.cause
    elif isinstance(event, ev.JobChanged) and event.verdict is not None:
        cause = event.verdict.cause
    asked = cause is not None and cause.kind is CauseKind.STOP_REQUESTED
    return asked and state.phase is Phase.RUNNING and state.scripts_alive


def _signalled(state: State, event: ev.Signalled, actions: list[ev.Action]) -> State:
    signum, at = event.signum, event.at
    if signum == signal.SIGTSTP:
        if state.phase is not Phase.RUNNING:
            return state  # nothing to suspend yet, or no time for it any more
        actions += [ev.Suspend(process.name) for process in state.alive]
        return replace(state, suspended=True)
    if signum == signal.SIGCONT:
        return resume(state, actions)
    if signum not in STOP_SIGNALS:
        pass_on = ev.Had if event.everywhere else ev.Send
        actions += [pass_on(process.name, signum) for process in state.alive if process.script]
        return state
    if event.everywhere:
        state = _had_by_all(state, signum)
    last, state = state.last_stop, replace(state, last_stop=(signum, at))
    if last is not None and last[0] == signum and 0 <= at - last[1] < state.setup.budgets.echo_s:
        return state
    state = replace(
        state,
        stop_signals=state.stop_signals + 1,
        first_stop_at=state.first_stop_at if state.stop_signals else at,
    )
    left_s = max(0.0, state.setup.budgets.stop_limit_s - (at - state.first_stop_at))
    actions.append(
        ev.Say(
            "signal.received",
            (
                ("signal", signal_name(signum)),
                ("count", state.stop_signals),
                ("left_s", round(left_s, 1)),
            ),
            "warning",
        )
    )
    if state.before_draining:
        message = f"received {signal_name(signum)}"
        asked = ExitStatus(signum=signum)
        cause = own_cause(state, CauseKind.STOP_REQUESTED, message, at, status=asked)
        return end(state, cause, actions)
    if state.stop_signals > 1:
        if state.phase is Phase.PUBLISHING:
            return _give_up_publishing(state, "before a second stop signal")
        return kill(state, actions)
    # Already coming down for another reason: the platform's limit counts from here all the same.
    if state.rung is Rung.HOLD and state.setup.host == state.setup.evaluator:
        state = rung_done(state, actions)
    state = disarm(
        state, actions, ev.Deadline.PUBLISH, ev.Deadline.LATE
    )  # their ample time is over
    return arm(state, ev.Deadline.LIMIT, state.setup.budgets.limit_s, actions)


def _had_by_all(state: State, signum: int) -> State:
    """Servers are passed over: those of ours heed nobody but us."""
    for process in state.alive:
        if not process.server and process.stop_signal == signum:
            state = with_process(state, process.name, had_stop=True)
    return state


def _expired(state: State, deadline: ev.Deadline, at: float, actions: list[ev.Action]) -> State:
    budgets = state.setup.budgets
    match deadline:
        case ev.Deadline.PREPARE:
            if not any(process.step for process in state.alive):
                return state
            message = (
                f"not prepared within {budgets.prepare_s:g} s (SUPERVISOR_PREPARE_TIMEOUT_S, and "
                "SUPERVISOR_FETCH_TIMEOUT_S where there is something to fetch)"
            )
            step = next((process.name for process in state.alive), None)
            return end(
                state, own_cause(state, CauseKind.PREPARE_FAILED, message, at, step), actions
            )
        case ev.Deadline.JOIN:
            if state.phase is not Phase.JOINING:
                return state
            if state.setup.elastic and state.setup.is_master:
                from supervisor.life.returning import begin_without  # noqa: PLC0415

                if (begun := begin_without(state, at, actions)) is not None:
                    return begun
            who = who_is_missing(state)
            if state.preparing and not state.join_extended:
                # Heard from, and busy: installing or fetching takes one longer than another.
                actions.append(ev.Say("joining.extended", (("hosts", who),), "warning"))
                state = replace(state, join_extended=True)
                return arm(state, ev.Deadline.JOIN, budgets.prepare_s, actions)
            waited_s = budgets.join_s + (budgets.prepare_s if state.join_extended else 0.0)
            message = f"joining timed out after {waited_s:g} s, waiting for {who}"
            return end(state, own_cause(state, CauseKind.JOIN_TIMEOUT, message, at), actions)
        case ev.Deadline.SETTLE:
            if state.suspect is None or not state.under_way:
                return state
            if state.restarts:
                from supervisor.life.restarting import judge  # noqa: PLC0415

                return judge(state, state.suspect, actions, at)
            return end(state, state.suspect, actions)
        case ev.Deadline.STRAGGLER:
            if state.phase is not Phase.RUNNING:
                return state
            late = [name for name, member in state.members.items() if not member.script_ended]
            message = (
                f"finished, exit 0; not waited for after {budgets.straggler_s:g} s: "
                + ", ".join(late[:_SHOWN])
            )
            return end(state, success(state, message), actions)
        case ev.Deadline.RUNTIME:
            if not state.under_way:
                return state
            message = f"ran for SUPERVISOR_MAX_RUNTIME_S, {budgets.max_runtime_s:g} s"
            return end(state, own_cause(state, CauseKind.MAX_RUNTIME, message, at), actions)
        case ev.Deadline.DECISION | ev.Deadline.RESTART | ev.Deadline.BACKOFF:
            return _restart_expired(state, deadline, actions)
        case ev.Deadline.REJOIN:
            from supervisor.life import returning  # noqa: PLC0415  # for jobs that go on

            if state.setup.is_member:
                return returning.master_not_back(state, actions)
            return returning.not_back(state, at, actions)
        case ev.Deadline.HOLD:
            actions.append(ev.Say("hold.expired", level="warning"))
            return rung_over(state, actions)
        case ev.Deadline.GRACE | ev.Deadline.GROUP:
            return rung_over(state, actions)
        case ev.Deadline.LIMIT:
            if state.phase is not Phase.PUBLISHING:
                return kill(state, actions)
            if state.publishing_settled:
                return replace(state, all_down=True)  # nobody is waited for past the limit
            return arm(state, ev.Deadline.PUBLISH, budgets.publish_s, actions)
        case ev.Deadline.KILL:
            for process in state.coming_down:
                actions.append(ev.Say("process.left", (("process", process.name),), "error"))
                state = live(state, process.name, Trigger.SURVIVED)
            return state
        case ev.Deadline.ACK if state.setup.is_member:
            return state  # the master's chief still saves, or nobody answers: our own end counts
        case ev.Deadline.ACK:
            late = [
                name for name, member in state.members.items() if member.heard and not member.down
            ]
            actions.append(ev.Say("members.late", (("hosts", late),), "warning"))
            return replace(state, all_down=True)
        case ev.Deadline.LATE:
            return state  # whether anybody is waited for still is drawn in _settle
        case ev.Deadline.PUBLISH:
            return _publishing_over(state, "not finished in time")
    assert_never(deadline)


def _restart_expired(state: State, deadline: ev.Deadline, actions: list[ev.Action]) -> State:
    from supervisor.life import restarting  # noqa: PLC0415  # for jobs that go on

    if deadline is ev.Deadline.DECISION:
        return restarting.unanswered(state, actions)
    if deadline is ev.Deadline.RESTART:
        return restarting.over(state, actions)
    return state  # whether all is ready is drawn in _settle


def _publishing_over(state: State, error: str | None) -> State:
    if state.publishing_settled:
        return state
    return replace(state, publishing_settled=True, publish_error=error)


def _give_up_publishing(state: State, when: str) -> State:
    """Leave now: neither the transfers nor the other hosts are waited for any more."""
    return _publishing_over(replace(state, all_down=True), f"not finished {when}")


def _member_reported(state: State, event: ev.MemberReported, actions: list[ev.Action]) -> State:
    member = state.members.get(event.host)
    if member is None:
        return state  # not ours; the server refuses it before it comes here
    turn = max(member.turn, event.turn)
    # What was said before it came down for another attempt is of the one before.
    early = state.job is JobState.RESTARTING and turn < (state.order.turn if state.order else 0)
    joined = member.joined or event.phase is not Phase.PREPARING
    updated = replace(
        member,
        joined=joined,
        heard=True,
        lost=None if joined else member.lost,
        earlier=event.earlier or member.earlier,
        restarting=event.phase is Phase.RESTARTING,
        seen_at=event.at,
        script_ended=member.script_ended or (event.script_ended and not early),
        down=member.down or event.phase in {Phase.PUBLISHING, Phase.DONE},
        holds=event.holds,
        told=event.cause,
        turn=turn,
    )
    if updated != member:
        state = replace(state, members={**state.members, event.host: updated})
    if updated.joined and not member.joined:
        state = _member_joined(state, member, event.host, actions)
    if event.earlier is not None:
        from supervisor.life.returning import learn  # noqa: PLC0415  # for jobs that go on

        state = learn(state, actions, moved=event.progressed)
    told = event.cause
    if told is None or told in {state.suspect, member.told, *state.tolerated}:
        return state
    if event.earlier is not None and event.phase in {Phase.RUNNING, Phase.RESTARTING}:
        return state  # a failure that nobody was there to judge: it starts anew with the rest
    state = replace(state, moved=state.moved or event.progressed)
    failures = {CauseKind.SCRIPT_FAILED, CauseKind.START_FAILED, CauseKind.ESSENTIAL_DIED}
    if state.restarts and event.phase not in {Phase.RUNNING, Phase.RESTARTING}:
        return end(state, told, actions)  # it could not wait for our word, and ends for good
    if told.kind in failures or (told.kind is CauseKind.HANG and state.restarts):
        return _failed(state, told, actions)
    return end(state, told, actions)


def _member_joined(state: State, before: Member, host: str, actions: list[ev.Action]) -> State:
    if state.under_way:
        from supervisor.life.returning import returned  # noqa: PLC0415  # for jobs that go on

        return returned(state, host, before.lost, actions)
    fields = (("host", host), ("missing", len(state.missing)))
    actions.append(ev.Say("member.joined", fields))
    if state.missing and state.job is JobState.JOINING:
        actions.append(ev.Announce(JobState.JOINING, missing=state.missing))
    return state


def _member_lost(
    state: State, host: str, evidence: str, at: float, actions: list[ev.Action]
) -> State:
    member = state.members.get(host)
    if member is None or member.down:
        return state
    actions.append(ev.Say("member.lost", (("host", host), ("evidence", evidence)), "warning"))
    if state.nothing_started:
        # It may be started anew. Until it is, it is one of those that are waited for.
        state = replace(state, members={**state.members, host: Member()})
        actions.append(ev.Announce(JobState.JOINING, missing=state.missing))
        return state
    cause = Cause(CauseKind.MEMBER_LOST, host, f"lost: {evidence}", at=at, attempt=state.attempt)
    if state.restarts and state.under_way:
        from supervisor.life import returning  # noqa: PLC0415  # for jobs that go on

        if returning.waits(state):
            return returning.lost(state, cause, actions)
    state = replace(state, members={**state.members, host: replace(member, down=True)})
    return _failed(state, cause, actions) if state.before_draining else state


def _job_changed(
    state: State,
    job: JobState,
    verdict: Verdict | None,
    actions: list[ev.Action],
    order: Order | None = None,
    generation: str = "",
) -> State:
    if state.setup.is_master or state.job is JobState.ENDED:
        return state
    state = replace(hear(state, job), master_heard=True, offered=(order, generation))
    if order is not None and state.under_way:
        from supervisor.life.restarting import follow  # noqa: PLC0415

        state = follow(state, order, job, actions, generation)
    if verdict is None:
        return state
    state = replace(state, verdict=verdict)
    if state.before_draining:
        return end(state, verdict.cause, actions)
    if job is JobState.ENDED and state.rung is Rung.HOLD and not evaluates_on(state):
        return rung_done(state, actions)
    return state


def _heard_from_master(state: State, actions: list[ev.Action]) -> State:
    if state.away is None:
        return state
    from supervisor.life.returning import master_back  # noqa: PLC0415  # for jobs that go on

    return master_back(state, actions)


def _master_lost(state: State, event: ev.MasterLost, actions: list[ev.Action]) -> State:
    if state.setup.is_master or state.job is JobState.ENDED:
        return state  # nobody to lose, or it said all it had to say
    master, how, evidence, at = state.setup.master, event.how, event.evidence, event.at
    if state.nothing_started and not event.final:
        # It may be started anew, and how long that is waited for is the join timeout.
        fields = (("host", master), ("how", how), ("evidence", evidence))
        actions.append(ev.Say("master.lost", fields, "warning"))
        return replace(state, master_heard=False)
    if state.restarts and state.under_way and not event.final:
        from supervisor.life import returning  # noqa: PLC0415  # for jobs that go on

        if returning.waits(state):
            return returning.master_away(state, how, evidence, at, actions)
    state = hear(state, JobState.ENDED)  # nobody will say it from here on
    if state.before_draining:
        begun = not state.nothing_started
        kind = CauseKind.MASTER_LOST if begun else CauseKind.REFUSED
        return end(
            state, own_cause(state, kind, f"the master {master} {how}: {evidence}", at), actions
        )
    if state.phase is Phase.DRAINING and state.rung is Rung.HOLD:
        return rung_done(state, actions)
    return state


def _broke(state: State, message: str, at: float, actions: list[ev.Action]) -> State:
    """A defect of ours. The first one ends the job in order; from then on only SIGKILL."""
    actions.append(ev.Say("internal.error", (("error", message),), "error"))
    if state.before_draining:
        return end(state, own_cause(state, CauseKind.INTERNAL, message, at), actions)
    return kill(state, actions)


# --------------------------------------------------------------------------- conclusions


def _settle(state: State, actions: list[ev.Action]) -> State:
    """Draw every conclusion that needs no further event."""
    if state.phase is Phase.JOINING and state.members and not state.missing:
        state = _all_are_here(state, actions)
    if state.phase is Phase.JOINING and state.job in {JobState.RUNNING, JobState.RESTARTING}:
        state = _begin_as_told(state, actions)
    if state.under_way and (cause := finished(state)) is not None:
        state = end(state, cause, actions)
    if state.order is not None and state.under_way:
        from supervisor.life.restarting import progress  # noqa: PLC0415

        state = progress(state, actions)
    if state.phase in {Phase.DRAINING, Phase.KILLING}:
        state = _come_down(state, actions)
    if state.phase is Phase.PUBLISHING:
        state = _leave(state, actions)
    return state


def _all_are_here(state: State, actions: list[ev.Action]) -> State:
    """On the master: the job begins, or goes on if the others run already."""
    if not any(member.earlier for member in state.members.values()):
        return agree(state, actions)
    from supervisor.life.returning import take_over  # noqa: PLC0415  # for jobs that go on

    return take_over(state, actions)


def _begin_as_told(state: State, actions: list[ev.Action]) -> State:
    """On a member that has joined: the master says that the job runs."""
    order, _ = state.offered
    if order is None and not state.late and not state.setup.elastic:
        return run(state, actions)
    from supervisor.life.returning import begin_late  # noqa: PLC0415  # the spawn does not wait

    return begin_late(state, actions)


def _come_down(state: State, actions: list[ev.Action]) -> State:
    if state.phase is Phase.DRAINING and state.rung is Rung.HOLD and not state.alive:
        state = rung_done(state, actions)
    if not state.scripts_alive and state.rung is not Rung.HOLD:
        if state.members and state.job is not JobState.ENDED:
            state = _announce_end(state, actions)
        state = rung_done(state, actions)
    if state.alive:
        return state
    if state.members and state.job is not JobState.ENDED:  # killed while holding, or left alive
        state = _announce_end(state, actions)
    # Every timer of the way down, but the platform's where it was asked to stop.
    budgets = state.setup.budgets
    kept = {ev.Deadline.ACK, ev.Deadline.LATE} | (
        {ev.Deadline.LIMIT} if state.stop_signals else set()
    )
    state = disarm(state, actions, *(state.armed - kept))
    state = enter(state, Trigger.NOTHING_ALIVE)
    if not state.begun:
        return _publishing_over(state, None)  # nothing was made that could be sent
    actions.append(ev.Publish())
    if _is_owed_a_word(state):
        state = arm(state, ev.Deadline.ACK, WORD_S, actions)
    if ev.Deadline.LIMIT in state.armed:
        return state  # all that the platform leaves; the share that is kept free follows it
    seconds = budgets.publish_s if state.stop_signals else budgets.publish_end_s
    return arm(state, ev.Deadline.PUBLISH, seconds, actions)


def _is_owed_a_word(state: State) -> bool:
    """Whether a member that was told to stop is to hear how the job ended. Its exit code is the
    chief's, and a script that dies of its signal at once was quicker than the master's answer."""
    return (
        state.setup.is_member
        and state.stop_signals == 1
        and state.master_heard
        and state.away is None
        and state.job is not JobState.ENDED
        and state.cause is not None
        and state.cause.kind is CauseKind.STOP_REQUESTED
        and state.cause.host == state.setup.host
    )


def _announce_end(state: State, actions: list[ev.Action]) -> State:
    """On the master: the verdict is final, members may stop their servers and leave."""
    assert state.cause is not None
    verdict = verdict_of(state, state.cause, job_exit_code(state.cause, state.script_status))
    state = advance(state, Trigger.NO_SCRIPT_ALIVE, verdict)
    actions.append(ev.Announce(state.job, verdict))
    budgets = state.setup.budgets
    ack_s = min(budgets.ack_s, budgets.publish_s) if state.stop_signals else budgets.ack_s
    if state.setup.evaluator and verdict.outcome is Outcome.SUCCEEDED and not state.stop_signals:
        ack_s += budgets.evaluator_grace_s
    waited_for = state.stop_signals or verdict.cause.kind is CauseKind.JOIN_TIMEOUT
    if not state.begun and not waited_for:
        state = arm(state, ev.Deadline.LATE, LATE_S, actions)
    return arm(state, ev.Deadline.ACK, ack_s, actions)


def _leave(state: State, actions: list[ev.Action]) -> State:
    # Who has never been heard from may never come, and is not waited for.
    late = ev.Deadline.LATE in state.armed
    if state.setup.is_member:
        down = ev.Deadline.ACK not in state.armed or state.job is JobState.ENDED
    else:
        down = all(member.down or not (member.heard or late) for member in state.members.values())
    down = down or state.all_down
    if down:
        state = disarm(state, actions, ev.Deadline.ACK)
    if not (down and state.publishing_settled):
        return state
    state = disarm(state, actions, *state.armed)
    actions.append(ev.Record())
    return enter(state, Trigger.ALL_SETTLED)
